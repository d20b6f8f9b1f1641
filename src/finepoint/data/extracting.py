"""Extracting archives that come from outside: inside the target only, no links or devices, within limits."""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from finepoint.errors import DataError

_CHUNK = 1 << 20
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tar.xz")
# Photographs hardly shrink; archives of text shrink tenfold. A bomb shrinks a thousandfold.
_RATIO_BYTES = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What an archive may at most hold.

    Args:
        bytes: of all files.
        files: their number, folders included.
        ratio: of the files' bytes to the archive's, looked at from 64 MiB on.
    """

    bytes: int = 500 << 30
    files: int = 5_000_000
    ratio: float = 200.0


Progress = Callable[[int, int], None]


def is_archive(name: str) -> bool:
    """Return whether a file's name is that of an archive that can be extracted.

    >>> is_archive("dogs.tar.gz"), is_archive("labels.csv")
    (True, False)
    """
    return name.lower().endswith(_SUFFIXES)


def archive_stem(name: str) -> str:
    """Return an archive's name without its endings.

    >>> archive_stem("dogs.tar.gz")
    'dogs'
    """
    suffix = max((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(suffix)] if suffix else name


def extract(archive: Path, target: Path, limits: Limits | None = None, progress: Progress | None = None) -> int:
    """Extract an archive (zip; tar, plain or compressed by gzip, zstandard, bzip2, xz), and return the number of files.

    The target appears when everything is in it: a failure or a kill leaves nothing there.

    Args:
        archive: the file.
        target: a folder that does not exist yet.
        limits: what it may hold.
        progress: called with the files and the bytes so far.

    Raises:
        DataError: it is damaged or of another kind, an entry leads outside, is a link or a device, is encrypted or
            stands twice, or a limit is passed.
    """
    return extract_all([archive], target, limits, progress)


def extract_all(
    archives: Sequence[Path], target: Path, limits: Limits | None = None, progress: Progress | None = None
) -> int:
    """Extract several archives into one folder; arguments and errors are those of `extract`, limits are of each."""
    target.parent.mkdir(parents=True, exist_ok=True)
    files = 0
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=target.parent) as name:
        folder = Path(name) / "content"
        folder.mkdir()
        for archive in archives:
            files += _extract(archive, folder, limits or Limits(), progress)
        try:
            folder.rename(target)
        except OSError as error:
            raise DataError(f"{target} cannot be made: {error.strerror}; give another folder") from error
    return files


def _extract(archive: Path, folder: Path, limits: Limits, progress: Progress | None) -> int:
    if not archive.is_file():
        raise DataError(f"{archive} is not there")
    writer = _Writer(archive, folder, limits, progress)
    try:
        for entry, is_folder, content in _entries(archive):
            writer.write(entry, is_folder, content)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is damaged or cut off ({error}); fetch it again") from error
    except NotImplementedError as error:
        raise DataError(f"{archive} cannot be extracted: {error}") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be extracted: {error.strerror or error}") from error
    return writer.files


class _Writer:
    """Writes entries below a folder, and counts them against the limits."""

    def __init__(self, archive: Path, folder: Path, limits: Limits, progress: Progress | None) -> None:
        self._archive = archive
        self._folder = folder
        self._limits = limits
        self._progress = progress
        self._size = archive.stat().st_size
        self._bytes = 0
        self._entries = 0
        self.files = 0

    def write(self, name: str, is_folder: bool, content: IO[bytes] | None) -> None:
        path = self._folder.joinpath(*_parts(self._archive, name))
        self._entries += 1
        if self._entries > self._limits.files:
            raise DataError(f"{self._archive} is refused: it holds over {self._limits.files:,} files")
        if is_folder:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        assert content is not None
        try:
            with path.open("xb") as file:
                while chunk := content.read(_CHUNK):
                    self._count(len(chunk))
                    file.write(chunk)
        except FileExistsError as error:
            raise DataError(f"{self._archive} is refused: entry {name!r} stands twice in it") from error
        self.files += 1
        if self._progress is not None:
            self._progress(self.files, self._bytes)

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.bytes:
            raise DataError(f"{self._archive} is refused: it holds over {self._limits.bytes:,} bytes")
        if self._bytes > max(_RATIO_BYTES, self._limits.ratio * self._size):
            raise DataError(
                f"{self._archive} is refused: it grows to over {self._limits.ratio:g} times its size, as archives do "
                "that are made to fill a disk"
            )


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    path = PurePosixPath(name.replace("\\", "/"))
    parts = tuple(part for part in path.parts if part != ".")
    outside = path.is_absolute() or ".." in parts or (parts and parts[0].endswith(":"))
    if outside or "\0" in name or not parts:
        if name in (".", "./"):
            return ()
        raise DataError(f"{archive} is refused: entry {name!r} leads outside of its folder")
    return parts


def _entries(archive: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    """Yield name, whether it is a folder, and the content of each entry; what is neither file nor folder is refused."""
    if zipfile.is_zipfile(archive):
        yield from _zip_entries(archive)
        return
    with _tar(archive) as tar:
        for entry in tar:
            if not (entry.isfile() or entry.isdir()):
                raise DataError(f"{archive} is refused: entry {entry.name!r} is a link or a device")
            yield entry.name, entry.isdir(), tar.extractfile(entry)


def _zip_entries(archive: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive} is refused: entry {entry.filename!r} is a link or a device")
            if entry.flag_bits & 1:
                raise DataError(f"{archive} is encrypted; extract it yourself and give the folder")
            if entry.is_dir():
                yield entry.filename, True, None
            else:
                with source.open(entry) as content:
                    yield entry.filename, False, content


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start == b"\x28\xb5\x2f\xfd":
            import zstandard

            try:
                with (
                    zstandard.ZstdDecompressor().stream_reader(file) as plain,
                    tarfile.open(fileobj=plain, mode="r|") as tar,
                ):
                    yield tar
            except zstandard.ZstdError as error:
                raise DataError(f"{archive} is damaged or cut off ({error}); fetch it again") from error
            return
        try:
            tar = tarfile.open(fileobj=file, mode="r|*")  # noqa: SIM115 - closed below
        except tarfile.ReadError as error:
            raise DataError(f"{archive} is neither a zip nor a tar archive, or is damaged ({error})") from error
        with tar:
            yield tar


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free
