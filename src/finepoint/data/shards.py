"""Many small files as a few archives, where each object costs a request; read back as the files they were."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path

from finepoint.data.extracting import extract_all
from finepoint.files import read_json, write_json

INDEX = "shards.json"
# S3 answers a request in some tens of milliseconds however small the object: below a megabyte a transfer waits for
# answers more than for bytes. A few hundred files are not worth an archive.
_MIN_FILES, _MAX_MEAN_BYTES = 1000, 1 << 20
_SHARD_BYTES = 64 << 20


def is_worth_packing(files: Mapping[str, Path]) -> bool:
    """Return whether files are so many and so small that they travel faster in archives."""
    return (
        len(files) >= _MIN_FILES and sum(path.stat().st_size for path in files.values()) < len(files) * _MAX_MEAN_BYTES
    )


def write_shards(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Pack files into tar archives and an index, and return those by name.

    The same files give the same bytes, and a file's archive follows from its name: where one file changes, one archive
    does. Images do not shrink, so that nothing is compressed.

    Args:
        files: by name.
        folder: an empty one.
    """
    count = -(-sum(path.stat().st_size for path in files.values()) // _SHARD_BYTES) or 1
    shards: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(files):
        shards[int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % count].append(name)
    made = {}
    for number, names in enumerate(shards):
        path = folder / f"shard-{number:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = files[name].stat().st_size, 0o644
                with files[name].open("rb") as content:
                    archive.addfile(entry, content)
        made[path.name] = path
    write_json(folder / INDEX, {"schema_version": 1, "shards": sorted(made), "files": len(files)})
    return {**made, INDEX: folder / INDEX}


def unpacked(folder: Path) -> Path:
    """Return a folder as it was before it was packed: itself, or what its shards held, beside it.

    Raises:
        DataError: a shard is missing or damaged.
    """
    if not (folder / INDEX).is_file():
        return folder
    target = folder.with_name(f"{folder.name}-unpacked")
    if not target.is_dir():
        extract_all([folder / name for name in read_json(folder / INDEX)["shards"]], target)
    return target
