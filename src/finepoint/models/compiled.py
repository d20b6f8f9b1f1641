"""Compiled graphs, kept so that a server that starts again need not compile.

OpenVINO names what it keeps by a graph's path and time; here it lies in a folder named by the graph's content as well,
so that another graph under an old path is never answered with an old one's numbers. A folder is there whole or not at
all.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finepoint.files import cache_dir, digest_of, sha256_of

Compile = Callable[[Mapping[str, Any]], Any]


def compile_kept(graph: Path, version: str, options: Mapping[str, Any], compile_with: Compile) -> Any:
    """Return a compiled graph, the one that was kept where there is one.

    Where the cache cannot be written to (a container whose files are read-only) it is compiled each time.

    Args:
        graph: an ONNX file.
        version: of OpenVINO.
        options: that decide what is compiled.
        compile_with: compiles the graph with such options.
    """
    key = {
        "graph": sha256_of(graph),
        "path": str(graph.resolve()),
        "modified": graph.stat().st_mtime_ns,
        "options": dict(options),
        "version": version,
    }
    kept = cache_dir() / "compiled" / digest_of(key)
    if kept.is_dir():
        return compile_with({**options, "CACHE_DIR": str(kept)})
    with contextlib.ExitStack() as stack:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=".compiled.", dir=kept.parent, ignore_cleanup_errors=True)
            )
        except OSError:
            return compile_with(options)
        made = Path(folder) / "compiled"
        made.mkdir()
        compiled = compile_with({**options, "CACHE_DIR": str(made)})
        with contextlib.suppress(OSError):  # another process has just made the same
            made.rename(kept)
    return compiled
