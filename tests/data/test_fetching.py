"""Fetching from a server on this machine that breaks off, lies, redirects, and keeps one waiting."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.conftest import write_images
from tests.data.test_extracting import tar_bytes, write_zip

from finepoint.data.fetching import Patience, fetch, find_root, local_data
from finepoint.errors import ConfigurationError, DataError

QUICK = Patience(timeout_seconds=0.5, attempts=3, pause_seconds=0.0)


class Server:
    """A server whose behaviour a test sets.

    Attributes:
        content: what is served.
        behave: is called with the handler and the bytes that were asked for, and answers.
        ranges: the Range header of every request.
        over: is set at the end.
    """

    def __init__(self) -> None:
        self.content = b""
        self.tag = '"one"'
        self.behave: Callable[[BaseHTTPRequestHandler, bytes], None] = send
        self.ranges: list[str | None] = []
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                given = self.headers.get("Range")
                outer.ranges.append(given)
                same = self.headers.get("If-Range") == outer.tag
                start = int(given.removeprefix("bytes=").removesuffix("-")) if given and same else 0
                if self.path.startswith("/redirect"):
                    where = {"/redirect": "/archive.zip", "/redirect-circle": "/redirect-circle"}
                    self.send_response(302)
                    self.send_header("Location", where.get(self.path, "file:///etc/passwd"))
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                self.send_header("ETag", outer.tag)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(outer.content) - 1}/{len(outer.content)}")
                outer.behave(self, outer.content[start:])

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


def send(handler: BaseHTTPRequestHandler, body: bytes, *, said: int | None = None, sent: int | None = None) -> None:
    handler.send_header("Content-Length", str(len(body) if said is None else said))
    handler.end_headers()
    handler.wfile.write(body if sent is None else body[:sent])


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = write_images(tmp_path_factory.mktemp("images") / "dogImages" / "train", 4)
    folder = root.parents[1]
    path = folder / "archive.zip"
    write_zip(path, {str(file.relative_to(folder)): file.read_bytes() for file in sorted(root.rglob("*.png"))})
    return path.read_bytes()


def test_an_archive_is_fetched_and_its_images_found(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.content = archive
    digest = hashlib.sha256(archive).hexdigest()
    found = fetch(f"{server.url}/archive.zip", tmp_path / "out", sha256=digest.upper(), patience=QUICK)
    assert Path(found.root) == tmp_path / "out" / "dogImages"
    assert (found.images, found.classes, found.has_splits) == (12, 3, True)
    assert (found.sha256, found.bytes) == (digest, len(archive))
    assert fetch(f"{server.url}/archive.zip", tmp_path / "out") == found
    assert len(server.ranges) == 1  # what is there is not fetched again
    assert [path.name for path in tmp_path.iterdir() if "download" in path.name] == []


def test_a_download_that_breaks_off_goes_on_from_there(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.content = archive
    server.behave = lambda handler, body: send(handler, body, sent=max(1, len(archive) // 4))
    found = fetch(f"{server.url}/archive.zip", tmp_path / "out", patience=QUICK)
    assert found.sha256 == hashlib.sha256(archive).hexdigest()
    step = len(archive) // 4
    assert server.ranges[:3] == [None, f"bytes={step}-", f"bytes={2 * step}-"]


def test_a_later_process_goes_on_where_an_earlier_one_gave_up(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.content = archive

    def stingy(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        send(handler, body, sent=100 if len(body) == len(archive) else 0)

    server.behave = stingy
    with pytest.raises(DataError, match=r"breaks off at 100 bytes, 3 times in a row.*goes on from there"):
        fetch(f"{server.url}/archive.zip", tmp_path / "out", patience=QUICK)
    server.behave = send
    server.ranges.clear()
    fetch(f"{server.url}/archive.zip", tmp_path / "out", patience=QUICK)
    assert server.ranges == ["bytes=100-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_beginning(
    server: Server, archive: bytes, tmp_path: Path
) -> None:
    server.content = b"x" * len(archive)

    def change(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        send(handler, body, sent=1000)
        server.content, server.tag, server.behave = archive, '"two"', send

    server.behave = change
    found = fetch(f"{server.url}/archive.zip", tmp_path / "out", patience=QUICK)
    assert found.sha256 == hashlib.sha256(archive).hexdigest()


@pytest.mark.parametrize("said", [10, -10])
def test_a_lie_about_the_length_is_found_out(server: Server, archive: bytes, tmp_path: Path, said: int) -> None:
    server.content = archive
    server.behave = lambda handler, body: send(handler, body, said=len(archive) + said)
    with pytest.raises(DataError):
        fetch(f"{server.url}/archive.zip", tmp_path / "out", patience=QUICK)
    assert not (tmp_path / "out").exists()


def test_another_hash_is_refused_and_the_file_not_kept(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.content = archive
    with pytest.raises(DataError, match="not what was asked for"):
        fetch(f"{server.url}/archive.zip", tmp_path / "out", sha256="0" * 64, patience=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_redirects_are_followed_but_not_in_a_circle_nor_to_files(
    server: Server, archive: bytes, tmp_path: Path
) -> None:
    server.content = archive
    assert fetch(f"{server.url}/redirect", tmp_path / "out", patience=QUICK).images == 12
    with pytest.raises(DataError, match="in a circle"):
        fetch(f"{server.url}/redirect-circle", tmp_path / "circle", patience=QUICK)
    with pytest.raises(DataError, match="less safe"):
        fetch(f"{server.url}/redirect-file", tmp_path / "file", patience=QUICK)


def test_a_server_that_stops_sending_is_given_up_on(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.content = archive

    def stall(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        send(handler, body, sent=10 if len(body) == len(archive) else 0)
        server.over.wait()

    server.behave = stall
    with pytest.raises(DataError, match="times in a row"):
        fetch(f"{server.url}/archive.zip", tmp_path / "out", patience=Patience(0.1, 2, 0.0))


def test_a_refusal_is_told_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ftp:// is not supported"):
        fetch("ftp://example.org/a.zip", tmp_path / "out")
    with pytest.raises(ConfigurationError, match="64 hexadecimal"):
        fetch(f"{server.url}/a.zip", tmp_path / "out", sha256="abc")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigurationError, match="holds something else"):
        fetch(f"{server.url}/a.zip", tmp_path / "out")
    assert server.ranges == []


def test_an_archive_on_disk_is_what_run_takes(tmp_path: Path, own_cache: Path) -> None:
    images = write_images(tmp_path / "images", 2)
    files = {f"deep/er/{file.relative_to(images)}": file.read_bytes() for file in images.rglob("*.png")}
    (tmp_path / "some.tar.gz").write_bytes(tar_bytes(files, "w:gz"))
    root = local_data(str(tmp_path / "some.tar.gz"))
    assert root.relative_to(own_cache.resolve()).parts[-2:] == ("deep", "er")
    assert local_data(str(images)) == images


def test_the_root_is_that_of_the_parts_or_of_the_class_folders(tmp_path: Path) -> None:
    for name in ("with/parts/here/train/a", "with/parts/__MACOSX/train/a", "classes/in/a", "classes/in/b"):
        (tmp_path / name).mkdir(parents=True)
    assert find_root(tmp_path / "with") == tmp_path / "with" / "parts" / "here"
    assert find_root(tmp_path / "classes") == tmp_path / "classes" / "in"
