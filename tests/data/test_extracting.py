from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from finepoint.data.extracting import Limits, extract
from finepoint.errors import DataError

FILES = {"a/one.txt": b"1", "a/b/two.txt": b"22", "ü.txt": b""}


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tar_bytes(files: dict[str, bytes], mode: str = "w", special: tarfile.TarInfo | None = None) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        if special is not None:
            archive.addfile(special)
    return content.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.write_bytes(tar_bytes(files))


def write_tar_gz(path: Path, files: dict[str, bytes]) -> None:
    path.write_bytes(tar_bytes(files, "w:gz"))


def write_tar_zst(path: Path, files: dict[str, bytes]) -> None:
    path.write_bytes(zstandard.ZstdCompressor().compress(tar_bytes(files)))


WRITERS = [write_zip, write_tar, write_tar_gz, write_tar_zst]
Writer = Callable[[Path, dict[str, bytes]], None]


@pytest.mark.parametrize("write", WRITERS)
def test_what_was_packed_is_extracted(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "archive", FILES)  # the kind is seen by the content, not by the name
    assert extract(tmp_path / "archive", tmp_path / "out") == 3
    assert {
        str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").rglob("*.txt")
    } == FILES


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt"])
def test_entries_that_lead_outside_are_refused_and_nothing_is_left(tmp_path: Path, write: Writer, name: str) -> None:
    write(tmp_path / "archive", {"good.txt": b"1", name: b"2"})
    with pytest.raises(DataError, match="leads outside"):
        extract(tmp_path / "archive", tmp_path / "sub" / "out")
    assert list((tmp_path / "sub").iterdir()) == []
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    special = tarfile.TarInfo("innocent")
    special.type, special.linkname = kind, "good.txt"
    (tmp_path / "archive.tar").write_bytes(tar_bytes({"good.txt": b"1"}, special=special))
    with pytest.raises(DataError, match="'innocent' is a link or a device"):
        extract(tmp_path / "archive.tar", tmp_path / "out")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        entry = zipfile.ZipInfo("innocent")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="link or a device"):
        extract(tmp_path / "archive.zip", tmp_path / "out")


@pytest.mark.parametrize("write", WRITERS)
def test_limits_hold(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "archive", {f"{number}.txt": b"x" * 100 for number in range(20)})
    with pytest.raises(DataError, match="over 10 files"):
        extract(tmp_path / "archive", tmp_path / "out", Limits(files=10))
    with pytest.raises(DataError, match="over 1,000 bytes"):
        extract(tmp_path / "archive", tmp_path / "out", Limits(bytes=1000))


@pytest.mark.parametrize("write", [write_zip, write_tar_gz, write_tar_zst])
def test_a_bomb_is_refused(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "bomb", {"zeros": bytes(80 << 20)})
    with pytest.raises(DataError, match="made to fill a disk"):
        extract(tmp_path / "bomb", tmp_path / "out")


@pytest.mark.parametrize("write", [write_zip, write_tar_gz, write_tar_zst])
def test_a_cut_off_archive_is_named_as_such(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "archive", {f"{number}.txt": bytes(range(256)) * number for number in range(50)})
    content = (tmp_path / "archive").read_bytes()
    (tmp_path / "archive").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"damaged|neither"):
        extract(tmp_path / "archive", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for data in (b"1", b"2"):
            entry = tarfile.TarInfo("same.txt")
            entry.size = 1
            archive.addfile(entry, io.BytesIO(data))
    (tmp_path / "archive.tar").write_bytes(content.getvalue())
    with pytest.raises(DataError, match="stands twice"):
        extract(tmp_path / "archive.tar", tmp_path / "out")


def test_what_is_no_archive_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_text("<html>Not found</html>" * 100)
    with pytest.raises(DataError, match="neither a zip nor a tar"):
        extract(tmp_path / "page.zip", tmp_path / "out")
