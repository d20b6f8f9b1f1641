"""Fetching images from an address: downloads that go on after any break, checked and extracted with care."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from filelock import FileLock

from finepoint.data.extracting import Limits, archive_stem, extract, free_bytes, is_archive
from finepoint.data.finding import SPLIT_NAMES, find_images
from finepoint.errors import ConfigurationError, DataError
from finepoint.files import cache_dir, read_json, sha256_of, write_json
from finepoint.stores import Store, store_of

_RECORD = ".finepoint-fetched.json"
_DEPTH = 5
_REDIRECTS = 5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Patience:
    """How long a download is kept at.

    Args:
        timeout_seconds: without a byte.
        attempts: in a row that bring nothing.
        pause_seconds: before the second attempt; doubled for each further one.
    """

    timeout_seconds: float = 30.0
    attempts: int = 5
    pause_seconds: float = 1.0


@dataclass(frozen=True)
class Fetched:
    """What was fetched.

    Args:
        root: the folder of images in it, for `finepoint run`.
        source: the address.
        sha256: of the archive, or "" for a folder.
        bytes: of the archive, or 0.
        files: that were extracted.
        images: files that may be images, as they were found.
        classes: their number.
        has_splits: whether there are train/ and other parts.
    """

    root: str
    source: str
    sha256: str
    bytes: int
    files: int
    images: int
    classes: int
    has_splits: bool


def is_address(text: str) -> bool:
    """Return whether a text names what has to be fetched before it can be looked at.

    >>> is_address("https://example.org/dogs.zip"), is_address("photos")
    (True, False)
    """
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text)) or (is_archive(text) and Path(text).is_file())


def local_data(source: str, progress: Progress | None = None) -> Path:
    """Return the folder or manifest that `finepoint run SOURCE` means, fetched into the cache where need be.

    Raises:
        DataError: it cannot be fetched.
    """
    if not is_address(source):
        return Path(source)
    key = hashlib.sha256(_identity(source).encode()).hexdigest()[:16]
    target = cache_dir() / "datasets" / f"{archive_stem(_name(source))[:40]}-{key}"
    return Path(fetch(source, target, exact=True, progress=progress).root)


def fetch(
    source: str,
    target: Path,
    *,
    sha256: str = "",
    limits: Limits | None = None,
    patience: Patience | None = None,
    exact: bool = False,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch images and say what was found; what is there already is not fetched again.

    Args:
        source: an address (http, https, file, s3), an archive, or a folder. `s3://BUCKET/PREFIX` is a folder unless it
            has an archive's ending.
        target: folder for what an archive, or a folder in S3, holds.
        sha256: of the archive, 64 hexadecimal digits, where it is known.
        limits: what an archive may hold.
        patience: with a slow or broken server.
        exact: of a folder in S3: remove from the target what does not lie there any more.
        progress: called with `download` (bytes, of bytes or 0) and `extract` (files, bytes).

    Raises:
        ConfigurationError: the address or the hash is none, or the target holds something else.
        DataError: it cannot be fetched, is not what the hash says, is unsafe, or holds no images.
        CloudError: S3 refused or failed.
    """
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigurationError(f"sha256 {sha256!r} is not 64 hexadecimal digits")
    scheme = urlsplit(source).scheme if "://" in source else ""
    store = store_of(source)
    if store is not None and sha256 and not is_archive(source):
        raise ConfigurationError(f"{source} is a folder; --sha256 is for an archive")
    if store is None and scheme not in ("", "file", "http", "https"):
        raise ConfigurationError(f"{source}: {scheme}:// is not supported here; give http, https, s3 or file")
    if scheme in ("", "file"):
        path = Path(unquote(urlsplit(source).path) if scheme else source)
        if path.is_dir():
            return _found(find_root(path), source, "", 0, 0)
        if not path.is_file():
            raise DataError(f"{path}: there is no such file or folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        known = _already(target, source, sha256)
        if store is not None and not is_archive(source):
            return _fetch_folder(store, source, target, exact, progress)
        if known is not None:
            return known
        part, downloaded = target.parent / f".{target.name}.download", store is not None or scheme in ("http", "https")
        if store is not None:
            path = part
            store.file(source, part, _told(progress))
        elif downloaded:
            path = _Download(source, part, patience or Patience(), progress).run()
        digest = sha256_of(path)
        if sha256 and digest != sha256.lower():
            if downloaded:
                path.unlink()
            raise DataError(f"{source} has the SHA-256 {digest}, not {sha256.lower()}; it is not what was asked for")
        size = path.stat().st_size
        files = extract(
            path, target, limits, (lambda done, size: progress("extract", done, size)) if progress else None
        )
        found = _found(find_root(target), source, digest, size, files)
        write_json(target / _RECORD, asdict(found))
        if downloaded:
            path.unlink()
    return found


def _fetch_folder(store: Store, source: str, target: Path, exact: bool, progress: Progress | None) -> Fetched:
    """Fetch a folder of a store; what is there already is compared with it, and only what changed is brought."""
    # Written first, so that what an interrupted command brought is known to be of this address.
    write_json(target / _RECORD, asdict(Fetched("", source, "", 0, 0, 0, 0, False)))
    files = store.folder(source, target, exact=exact, progress=_told(progress))
    found = _found(find_root(target), source, "", 0, files)
    write_json(target / _RECORD, asdict(found))
    return found


def _told(progress: Progress | None) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress("download", done, total)) if progress else None


def find_root(folder: Path) -> Path:
    """Return the folder of images in what an archive held: the first with a train/ in it, or that of the class folders.

    Raises:
        DataError: there are no images in class folders.
    """
    waiting = [folder]
    for _ in range(_DEPTH):
        for path in waiting:
            if any(SPLIT_NAMES.get(child.name.lower()) == "train" for child in _folders(path)):
                return path
        waiting = [child for path in waiting for child in _folders(path)][:1000]
    root = folder
    while len(children := _folders(root)) == 1 and _folders(children[0]):
        root = children[0]
    return root


class _Download:
    """One file from an address, which goes on where an earlier attempt, or process, broke off."""

    def __init__(self, url: str, part: Path, patience: Patience, progress: Progress | None) -> None:
        self._url = url
        self._part = part
        self._state = part.with_name(part.name + ".json")
        self._patience = patience
        self._progress = progress

    def run(self) -> Path:
        """Return the file when it is whole.

        Raises:
            DataError: the server refuses, or breaks off again and again.
        """
        failures, before = 0, -1
        timeout = httpx.Timeout(self._patience.timeout_seconds)
        hooks = {"response": [self._check_redirect]}
        with httpx.Client(
            timeout=timeout, follow_redirects=True, max_redirects=_REDIRECTS, event_hooks=hooks
        ) as client:
            while True:
                try:
                    self._attempt(client)
                except httpx.TooManyRedirects as error:
                    raise DataError(f"{self._url} redirects in a circle") from error
                except (httpx.TransportError, httpx.DecodingError, _BrokenOffError) as error:
                    have = self._have()
                    failures = failures + 1 if have <= before else 1
                    before = max(have, before)
                    if failures >= self._patience.attempts:
                        raise DataError(
                            f"{self._url} breaks off at {have:,} bytes, {failures} times in a row "
                            f"({str(error) or type(error).__name__}); the same command goes on from there"
                        ) from error
                    time.sleep(self._patience.pause_seconds * 2 ** (failures - 1))
                except httpx.InvalidURL as error:
                    raise ConfigurationError(f"{self._url} is no address: {error}") from error
                else:
                    self._state.unlink(missing_ok=True)
                    return self._part

    def _attempt(self, client: httpx.Client) -> None:
        have, state = self._have(), self._read_state()
        headers = {"Accept-Encoding": "identity"}
        if have and state.get("validator"):
            headers |= {"Range": f"bytes={have}-", "If-Range": state["validator"]}
        with client.stream("GET", self._url, headers=headers) as answer:
            if answer.status_code == 416 and have and have == state.get("total"):
                return  # it was whole already
            if answer.status_code == 416 or (have and answer.status_code == 200):
                have = 0  # the file has changed, or the server cannot go on: from the beginning
            if answer.status_code == 416:
                self._part.unlink(missing_ok=True)
                raise _BrokenOffError("it has changed meanwhile")
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _BrokenOffError(f"the server answered {answer.status_code}")
            if answer.status_code not in (200, 206):
                raise DataError(f"{self._url} cannot be fetched: the server answered {answer.status_code}")
            total = _total(answer, have)
            self._check_space(total - have if total else 0)
            write_json(self._state, {"url": self._url, "validator": _validator(answer), "total": total})
            with self._part.open("ab" if have else "wb") as file:
                for chunk in answer.iter_raw():  # without a size: what has come before a break is kept
                    file.write(chunk)
                    have += len(chunk)
                    if self._progress is not None:
                        self._progress("download", have, total or 0)
        if total is not None and have != total:
            raise _BrokenOffError(f"{have:,} of {total:,} bytes came")

    def _have(self) -> int:
        same = self._read_state().get("url") == self._url
        return self._part.stat().st_size if same and self._part.is_file() else 0

    def _read_state(self) -> dict[str, Any]:
        return dict(read_json(self._state)) if self._state.is_file() else {}

    def _check_space(self, wanted: int) -> None:
        free = free_bytes(self._part.parent)
        if wanted > free:
            raise DataError(f"{self._url} needs {wanted:,} bytes, and {free:,} are free in {self._part.parent}")

    def _check_redirect(self, answer: httpx.Response) -> None:
        if not answer.has_redirect_location:
            return
        target = answer.url.join(answer.headers["location"])
        if target.scheme not in ("http", "https") or (self._url.startswith("https:") and target.scheme == "http"):
            raise DataError(f"{self._url} redirects to {target}, which is refused: it is less safe than the address")


class _BrokenOffError(Exception):
    """The server sent less than it should; it is asked again."""


def _total(answer: httpx.Response, have: int) -> int | None:
    """Return the bytes of the whole file, or None where the server does not say."""
    if answer.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("content-range", ""))
        if match is None or int(match[1]) != have:
            raise _BrokenOffError("the server sent another part than was asked for")
        return None if match[2] == "*" else int(match[2])
    length = answer.headers.get("content-length")
    return int(length) if length is not None and length.isdigit() else None


def _validator(answer: httpx.Response) -> str:
    """Return what tells the server that a file is still the same; a weak one does not do."""
    tag = str(answer.headers.get("etag", ""))
    return tag if tag and not tag.startswith("W/") else str(answer.headers.get("last-modified", ""))


def _already(target: Path, source: str, sha256: str) -> Fetched | None:
    if not target.exists():
        return None
    record = target / _RECORD
    if record.is_file():
        known = Fetched(**read_json(record))
        if known.source == source and sha256.lower() in ("", known.sha256):
            return known
    raise ConfigurationError(f"{target} exists and holds something else; give another folder (--to), or remove it")


def _found(root: Path, source: str, digest: str, size: int, files: int) -> Fetched:
    found = find_images(root)
    return Fetched(
        str(root.resolve()), source, digest, size, files, len(found.images), len(found.classes), found.has_splits
    )


def _folders(path: Path) -> list[Path]:
    hidden = (".", "__MACOSX")
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith(hidden))


def _identity(source: str) -> str:
    """Return what a cached copy is kept by: the address, or a file's path, size and time."""
    if "://" in source:
        return source
    status = Path(source).stat()
    return f"{Path(source).resolve()} {status.st_size} {status.st_mtime_ns}"


def _name(source: str) -> str:
    name = Path(unquote(urlsplit(source).path) if "://" in source else source).name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "images"


def default_target(source: str) -> Path:
    """Return the folder that `finepoint data fetch` makes where none is named.

    >>> str(default_target("https://example.org/a/dogImages.zip?x=1"))
    'dogImages'
    """
    return Path(archive_stem(_name(source)))
