"""Dynamic batching: while the device computes, what arrives waits; when it is free, what waits becomes the next batch.

Nothing waits for a batch to fill, so that a request alone is as fast as without batching. What nobody waits for any
more (its client has gone, or its deadline has passed) is never computed. The device's threads take from the queue
themselves, so that between two batches nothing waits for the event loop's turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

# Called with the seconds that each image of a batch waited, and the seconds that the batch took.
Observe = Callable[[Sequence[float], float], None]
Compute = Callable[[Sequence[np.ndarray], Sequence[str]], dict[str, np.ndarray]]


class ExpiredError(Exception):
    """A request's deadline passed before it was computed."""


@dataclass(slots=True)
class _Item:
    crops: list[np.ndarray]
    outputs: tuple[str, ...]
    deadline: float
    result: asyncio.Future[dict[str, np.ndarray]]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue before a device.

    Args:
        compute: takes arrays [n, h, w, 3], one for each backbone, and the names of the outputs wanted; gives
            arrays [n, ...] by name. It is called in a thread of its own.
        max_batch: images in a batch at most.
        observe: called after each batch.

    Attributes:
        seconds_per_image: a running average of what the device takes.
    """

    def __init__(self, compute: Compute, *, max_batch: int, observe: Observe | None = None) -> None:
        self._alone = self._shared = compute
        self._max_batch = max_batch
        self._observe = observe
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._lanes: list[threading.Thread] = []
        self._wanted_lanes = 1
        self._computing = 0
        self._closed = False
        self.seconds_per_image = 0.0

    @property
    def waiting(self) -> int:
        """How many images wait for the device."""
        return len(self._queue)

    def widen(self, compute: Compute, lanes: int, max_batch: int) -> None:
        """Compute several batches at once from now on, where more than one image is there.

        Args:
            compute: called by so many threads at once; one image alone still gets the other one.
            lanes: how many.
            max_batch: images in a batch at most.
        """
        with self._changed:
            self._shared, self._wanted_lanes, self._max_batch = compute, lanes, max_batch

    async def submit(
        self, crops: list[np.ndarray], outputs: tuple[str, ...], deadline: float = float("inf")
    ) -> dict[str, np.ndarray]:
        """Return the outputs for one image's crops, uint8 [h, w, 3], one for each backbone.

        Args:
            crops: of the image.
            outputs: names of those wanted.
            deadline: in seconds of the monotonic clock; later it is of no use.

        Raises:
            ExpiredError: the deadline passed before the device was free.
        """
        loop = asyncio.get_running_loop()
        item = _Item(crops, outputs, deadline, loop.create_future())
        with self._changed:
            self._queue.append(item)
            self._changed.notify()
        while len(self._lanes) < self._wanted_lanes:
            self._lanes.append(threading.Thread(target=self._work, args=(loop,), name="device", daemon=True))
            self._lanes[-1].start()
        return await item.result

    def close(self) -> None:
        """End the device's threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._queue:
                    self._changed.wait()
                if self._closed:
                    return
                compute = self._alone if len(self._queue) == 1 and not self._computing else self._shared
                batch, late = self._next_batch()
                self._computing += 1
            began, start = time.monotonic(), time.perf_counter()
            values: dict[str, np.ndarray] | Exception = {}
            try:
                if batch:
                    names = sorted({name for item in batch for name in item.outputs})
                    values = compute(_stacked([item.crops for item in batch]), names)
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises is its requests' answer
                values = error
            seconds = time.perf_counter() - start
            with self._changed:
                self._computing -= 1
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(self._finish, batch, late, values, began, seconds)

    def _next_batch(self) -> tuple[list[_Item], list[_Item]]:
        """Take the next batch off the queue, and what has waited too long."""
        batch: list[_Item] = []
        late: list[_Item] = []
        now = time.monotonic()
        while self._queue and len(batch) < self._max_batch:
            item = self._queue.popleft()
            if item.result.done():
                continue
            (late if now > item.deadline else batch).append(item)
        return batch, late

    def _finish(
        self,
        batch: Sequence[_Item],
        late: Sequence[_Item],
        values: dict[str, np.ndarray] | Exception,
        began: float,
        seconds: float,
    ) -> None:
        """Hand a batch's results to those who still wait."""
        for item in late:
            if not item.result.done():
                item.result.set_exception(ExpiredError())
        for index, item in enumerate(batch):
            if item.result.done():
                continue
            if isinstance(values, Exception):
                item.result.set_exception(values)
            else:
                item.result.set_result({name: values[name][index] for name in item.outputs})
        if batch and not isinstance(values, Exception):
            each = seconds / len(batch) / max(1, len(self._lanes))
            self.seconds_per_image = 0.9 * (self.seconds_per_image or each) + 0.1 * each
            if self._observe is not None:
                self._observe([began - item.since for item in batch], seconds)


def _stacked(crops: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    if len(crops) == 1:
        return [crop[None] for crop in crops[0]]
    return [np.stack(column) for column in zip(*crops, strict=True)]
