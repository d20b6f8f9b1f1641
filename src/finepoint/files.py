"""Files that are either whole or absent, and the few places on disk that finepoint uses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finepoint.errors import ConfigurationError, InputError


@contextmanager
def atomic_path(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, else remove it.

    Args:
        path: the file to be.
        private: only its owner may read it; otherwise whoever the process's umask lets.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if not private:  # what is temporary is
            temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path, flag: str) -> None:
    """Make a folder that the user has named, and those above it.

    Args:
        folder: the folder; it may be there.
        flag: the flag or argument that it was given with.

    Raises:
        ConfigurationError: it cannot be made there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # that is no fault of the place's name
            raise
        raise ConfigurationError(
            f"{flag}: the folder {folder} cannot be made ({error.strerror}); give another place"
        ) from error


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write `content` to `path`; a reader sees the old file or the new one, never a half."""
    with atomic_path(path, private=private) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: object, *, private: bool = False) -> None:
    """Write `value` as indented JSON to `path`, atomically. NaN and infinity are refused: they are not JSON.

    A name that is not UTF-8 has JSON's escapes where its bytes were, and comes back as it was.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(errors="backslashreplace"), private=private)


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        InputError: the file is not there or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def read_json_lines(path: Path) -> list[Any]:
    """Return the JSON values in the lines of `path`.

    Raises:
        InputError: the file is not there, or a line is not JSON.
    """
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: a line is not valid JSON ({error})") from error


def exists(path: Path) -> bool:
    """Return whether there is something at a path; where no file system could have it (too long, a null) there is not.

    >>> exists(Path("a" * 5000)), exists(Path("a\\0"))
    (False, False)
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object, the same for every order of its keys.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cache_dir() -> Path:
    """Return the folder for what can be made again (features, weights, graphs).

    `$FINEPOINT_CACHE` moves it; by default it is the platform's cache folder.
    """
    import platformdirs  # here, because copies of this module run where it is not installed

    return Path(os.environ.get("FINEPOINT_CACHE") or platformdirs.user_cache_path("finepoint"))


def state_dir() -> Path:
    """Return the folder for what this machine is doing (the endpoint registry, packages made here).

    `$FINEPOINT_STATE` moves it; by default it is the platform's state folder.
    """
    import platformdirs

    return Path(os.environ.get("FINEPOINT_STATE") or platformdirs.user_state_path("finepoint"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
