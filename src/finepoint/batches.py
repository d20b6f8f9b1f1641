"""Moments in which a DataLoader gives batches. See `finepoint.instrumentation`.

================  ===========================================================================================
event             callback is called with
================  ===========================================================================================
LOADER_BEGIN      loader: an iteration over a DataLoader begins
LOADER_READY      loader: its iterator is made (and its workers are started)
WAIT              loader: it is asked for a batch
BATCH             loader, batch, seconds waited for it
LOADER_END        loader, whether it was exhausted, seconds waited to learn so
================  ===========================================================================================

Who only wants to know when batches of one loader came has `batch_times` note it, at less cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

from torch.utils.data import DataLoader

from finepoint.instrumentation import Event, Shared
from finepoint.patching import Remove, replace_all


class BatchTimes:
    """Notes of each batch of one loader when it was asked for, and how many seconds it was waited for.

    To be told costs some ten microseconds where the caches are full of other things: a hundredth of a short step.
    """

    __slots__ = ("_another", "_noted", "_over", "_until", "loader")

    def __init__(self) -> None:
        self.loader: DataLoader[Any] | None = None
        self._noted: list[float] = []
        self._until = 0.0
        self._over: Callable[[], object] = lambda: None
        self._another: Callable[[], object] = lambda: None

    def begin(
        self,
        loader: DataLoader[Any],
        noted: list[float],
        until: float,
        *,
        over: Callable[[], object],
        another: Callable[[], object],
    ) -> None:
        """Note batches from now on.

        Args:
            loader: whose.
            noted: two numbers for each batch are added to it.
            until: seconds of `time.perf_counter`.
            over: called after the first batch from then on, which is the last that is noted.
            another: called when another loader gives a batch meanwhile.
        """
        self.loader, self._noted, self._until, self._over, self._another = loader, noted, until, over, another

    def end(self) -> None:
        """Note nothing more."""
        self.loader = None

    def note(self, loader: DataLoader[Any], began: float, now: float) -> None:
        """Take note of a batch of any loader."""
        if loader is not self.loader:
            self._another()
            return
        self._noted.append(began)
        self._noted.append(now - began)
        if now >= self._until:
            self.end()
            self._over()


batch_times = BatchTimes()


class _Batches:
    """An iterator over a loader's batches that tells of each; all else is the loader's own iterator's."""

    __slots__ = ("__weakref__", "_batches", "_ended", "_loader")

    def __init__(self, loader: DataLoader[Any], batches: Iterator[Any]) -> None:
        put = object.__setattr__
        put(self, "_loader", loader)
        put(self, "_ended", False)
        put(self, "_batches", batches)

    @property  # type: ignore[misc]  # nobody sets it
    def __class__(self) -> type[Any]:
        return type(self._batches)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._batches, name, value)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return self._batches.__reduce_ex__(protocol)

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        if WAIT.watched:
            WAIT.emit(self._loader)
        began = time.perf_counter()
        try:
            batch = next(self._batches)
        except StopIteration:
            self._end(True, time.perf_counter() - began)
            raise
        now = time.perf_counter()
        if batch_times.loader is not None:
            batch_times.note(self._loader, began, now)
        if BATCH.watched:
            BATCH.emit(self._loader, batch, now - began)
        return batch

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def __del__(self) -> None:
        self._end(False, 0.0)

    def _end(self, exhausted: bool, waited: float) -> None:
        if not self._ended:
            object.__setattr__(self, "_ended", True)
            LOADER_END.emit(self._loader, exhausted, waited)


def _put_loader() -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def batches(loader: DataLoader[Any]) -> _Batches:
            LOADER_BEGIN.emit(loader)
            made = _Batches(loader, original(loader))
            LOADER_READY.emit(loader)
            return made

        return batches

    return replace_all([(DataLoader, "__iter__", around)])


_loader = Shared(_put_loader)
LOADER_BEGIN: Event[[DataLoader[Any]]] = Event(_loader)
LOADER_READY: Event[[DataLoader[Any]]] = Event(_loader)
WAIT: Event[[DataLoader[Any]]] = Event(_loader)
BATCH: Event[[DataLoader[Any], Any, float]] = Event(_loader)
LOADER_END: Event[[DataLoader[Any], bool, float]] = Event(_loader)
