"""Literal `/opt/ml` paths: whether this system lets a job have them, and where a script has them."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from finepoint.engines.spec import JobSpec
from finepoint.errors import ConfigurationError

_LITERAL = re.compile(r"/opt/ml\b")
# In a shell, `${SM_MODEL_DIR:-/opt/ml/model}` is only a default.
_SHELL_DEFAULT = re.compile(r"\$\{SM_\w+:?-/opt/ml[^}]*\}")
_LAUNCHER = Path(__file__).with_name("launcher.py")


def launch(command: list[str], *, folder: str = "", hosts: str = "", supervisor: str = "") -> list[str]:
    """Return the command line that starts a command through the launcher; off Linux, the command itself."""
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", str(_LAUNCHER), folder, hosts, supervisor, *command]


@functools.lru_cache(maxsize=1)
def why_not_bindable() -> str:
    """Return why this system does not let a process have its own `/opt/ml`, or "" if it does; it is tried once."""
    if sys.platform != "linux":
        return f"{sys.platform} has no mount namespaces"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "seen").touch()
        command = launch(["/bin/sh", "-c", "test -e /opt/ml/seen"], folder=folder)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return ""
    return done.stderr.strip().removeprefix("error: ") or "what was bound did not show"


def check_literals(spec: JobSpec) -> None:
    """Check that nothing of a script job needs `/opt/ml`, for systems that do not let it have that path.

    Raises:
        ConfigurationError: it does; every file and line is named.
    """
    source = Path(spec.source_dir)
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    places = [
        f"{path.name if source.is_file() else path.relative_to(source)}:{line}: {text}"
        for path in files
        for line, text in literals(path)
    ]
    for kind, values in (("hyperparameter", spec.hyperparameters), ("variable", spec.environment)):
        places += [f"{kind} {name}: {value}" for name, value in _literal_values(values)]
    if places:
        raise ConfigurationError(
            "/opt/ml is needed, and this system does not allow it to be bound for a job "
            f"({why_not_bindable()}). Read these from SM_MODEL_DIR, SM_CHANNEL_<NAME>, SM_OUTPUT_DATA_DIR instead, or "
            "run where unprivileged user namespaces are allowed:" + "".join(f"\n  {place}" for place in places)
        )


def literals(path: Path) -> list[tuple[int, str]]:
    """Return line number and text of each use of `/opt/ml` in a script.

    In Python, comments, docstrings and the defaults of `SM_` variables are not uses; in a shell likewise.
    """
    if path.suffix not in (".py", ".sh"):
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    if "/opt/ml" not in text:
        return []
    lines = text.splitlines()
    if path.suffix == ".py":
        try:
            found = sorted(set(_python_uses(ast.parse(text))))
        except SyntaxError:
            found = [number for number, line in enumerate(lines, 1) if _LITERAL.search(line.partition("#")[0])]
        return [(number, lines[number - 1].strip()) for number in found]
    return [
        (number, line.strip())
        for number, line in enumerate(lines, 1)
        if _LITERAL.search(_SHELL_DEFAULT.sub("", re.sub(r"(^|\s)#.*", "", line)))
    ]


def _python_uses(tree: ast.Module) -> Iterator[int]:
    harmless: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            harmless.add(id(node.value))
        elif isinstance(node, ast.Call) and len(node.args) == 2:
            name, default = node.args
            if isinstance(name, ast.Constant) and str(name.value).startswith("SM_"):
                harmless |= {id(part) for part in ast.walk(default)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in harmless else None
        if isinstance(text, str) and _LITERAL.search(text):
            yield node.lineno  # type: ignore[attr-defined]


def _literal_values(values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    yield from ((name, value) for name, value in values.items() if _LITERAL.search(str(value)))
