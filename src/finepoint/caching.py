"""What the cache holds, and what leaves it when it grows too large: the features that were used longest ago.

Everything in the cache can be made again. Only features grow with every new image, so that only they are evicted
unasked; `finepoint cache` shows and clears the rest as well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout

from finepoint.errors import ConfigurationError
from finepoint.files import cache_dir

Kind = Literal["compiled", "features", "graphs", "machine", "packages", "weights"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Room for the features of some two million images: 1,904 floats each.
_MAX_BYTES = 16 * 2**30
_VARIABLE = "FINEPOINT_CACHE_MAX_BYTES"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing in the cache.

    Args:
        kind: the folder of the cache that it lies in.
        path: a file or a folder.
        bytes: that it takes.
        used_at: when it was last used, in seconds since 1970.
    """

    kind: Kind
    path: Path
    bytes: int
    used_at: float


def max_bytes() -> int:
    """Return how large the cached features may grow together: `$FINEPOINT_CACHE_MAX_BYTES`, or 16 GiB.

    Raises:
        ConfigurationError: the variable is not a whole number.
    """
    given = os.environ.get(_VARIABLE, "")
    if given and not given.isdigit():
        raise ConfigurationError(f"{_VARIABLE} is {given!r}; it must be a whole number of bytes")
    return int(given) if given else _MAX_BYTES


def cache_entries(kinds: Collection[Kind] = KINDS) -> list[CacheEntry]:
    """Return what the cache holds of these kinds, the longest unused first."""
    found: list[CacheEntry] = []
    for kind in kinds:
        folder = cache_dir() / kind
        paths = [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
        found += [CacheEntry(kind, path, _bytes(path), path.stat().st_mtime) for path in paths]
    return sorted(found, key=lambda entry: (entry.used_at, entry.path))


def mark_used(path: Path) -> None:
    """Note that an entry is being used now."""
    os.utime(path)


def evict(limit: int, keep: Collection[Path] = ()) -> list[CacheEntry]:
    """Remove the features that were used longest ago until all take at most `limit` bytes; return what went.

    Args:
        limit: in bytes.
        keep: folders to leave, whatever they take. What another process is filling is left too.
    """
    entries = cache_entries(["features"])
    total, gone = sum(entry.bytes for entry in entries), []
    for entry in entries:
        if total <= limit:
            break
        if entry.path not in keep and _remove_features(entry.path):
            total -= entry.bytes
            gone.append(entry)
    return gone


def clear(kinds: Collection[Kind]) -> list[CacheEntry]:
    """Remove everything of these kinds but what another process is filling; return what went."""
    gone = []
    for entry in cache_entries(kinds):
        if entry.kind == "features":
            removed = _remove_features(entry.path)
        else:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink(missing_ok=True)
            removed = True
        if removed:
            gone.append(entry)
    return gone


def _remove_features(folder: Path) -> bool:
    """Remove a folder of features unless it is being filled; readers hold what they have read."""
    try:
        with FileLock(folder / "lock", timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        return False
    return True


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.lstat().st_size for file in files if file.is_file())
