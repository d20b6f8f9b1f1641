"""Stores: where data lies that is not on this machine's disks, by the scheme of its address.

The package says who reads a scheme (`finepoint/__init__.py`), so that a lower room can be given `s3://` addresses and
knows nothing of S3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

Progress = Callable[[int, int], None]


class Store(Protocol):
    """Reads, and writes, the addresses of one scheme; progress is told bytes done and to do."""

    def file(self, address: str, target: Path, progress: Progress | None = None) -> None:
        """Bring one object to a file, going on where an earlier attempt broke off."""

    def folder(
        self,
        address: str,
        target: Path,
        *,
        exact: bool = False,
        sealed: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Bring what lies under an address into a folder, only what changed, and return the number of files.

        Args:
            address: of the prefix.
            target: the folder.
            exact: remove from it what does not lie there any more; hidden files are left alone.
            sealed: what is there never changes, so that a file of the same size is the same.
            progress: is told bytes done and to do.
        """

    def channel(self, address: str, target: Path) -> int:
        """Bring what SageMaker takes for a channel's address, and nothing else, into a folder; return how many files.

        That is every object whose address begins so: the one object, what lies below it, and `data2/...` for `data`.
        """

    def named(self, prefix: str, names: Sequence[str], target: Path) -> None:
        """Bring the objects whose addresses are a prefix and each of some names into a folder, only what changed."""

    def send(self, files: Mapping[str, Path], address: str) -> None:
        """Put files below an address, by name; each is there whole or not at all."""


_STORES: dict[str, Callable[[], Store]] = {}


def add_store(scheme: str, make: Callable[[], Store]) -> None:
    """Let `make` return the store of a scheme from now on."""
    _STORES[scheme] = make


def store_of(address: str) -> Store | None:
    """Return the store of an address; None where it is a path, or nobody reads its scheme.

    >>> store_of("photos/train") is None
    True
    """
    scheme, separator, _ = address.partition("://")
    make = _STORES.get(scheme) if separator else None
    return make() if make is not None else None
