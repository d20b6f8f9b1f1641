"""Dynamic batching: while the device computes, what arrives waits; when it is free, what waits becomes the next batch.

Nothing waits for a batch to fill, so that a request alone is as fast as without batching. What nobody waits for any
more (its client has gone, or its deadline has passed) is never computed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

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
    """A queue before a device that computes one batch at a time.

    Args:
        compute: takes arrays [n, h, w, 3], one for each backbone, and the names of the outputs wanted; gives
            arrays [n, ...] by name. It is called in a thread of its own.
        max_batch: images in a batch at most.
        observe: called after each batch.

    Attributes:
        seconds_per_image: a running average of what the device takes.
    """

    def __init__(self, compute: Compute, *, max_batch: int, observe: Observe | None = None) -> None:
        self._compute = compute
        self._max_batch = max_batch
        self._observe = observe
        self._queue: deque[_Item] = deque()
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._task: asyncio.Task[None] | None = None
        self.seconds_per_image = 0.0

    @property
    def waiting(self) -> int:
        """How many images wait for the device."""
        return len(self._queue)

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
        item = _Item(crops, outputs, deadline, asyncio.get_running_loop().create_future())
        self._queue.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await item.result

    def close(self) -> None:
        """End the device's thread."""
        self._device.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            start, began = time.perf_counter(), time.monotonic()
            outputs = sorted({name for item in batch for name in item.outputs})
            stacked = _stacked([item.crops for item in batch])
            try:
                values: Any = await loop.run_in_executor(self._device, self._compute, stacked, outputs)
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises is its requests' answer
                for item in batch:
                    if not item.result.done():
                        item.result.set_exception(error)
                continue
            seconds = time.perf_counter() - start
            average = self.seconds_per_image or seconds / len(batch)
            self.seconds_per_image = 0.9 * average + 0.1 * seconds / len(batch)
            if self._observe is not None:
                self._observe([began - item.since for item in batch], seconds)
            for index, item in enumerate(batch):
                if not item.result.done():
                    item.result.set_result({name: values[name][index] for name in item.outputs})
        self._task = None

    def _next_batch(self) -> list[_Item]:
        batch: list[_Item] = []
        now = time.monotonic()
        while self._queue and len(batch) < self._max_batch:
            item = self._queue.popleft()
            if item.result.done():
                continue
            if now > item.deadline:
                item.result.set_exception(ExpiredError())
            else:
                batch.append(item)
        return batch


def _stacked(crops: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    if len(crops) == 1:
        return [crop[None] for crop in crops[0]]
    return [np.stack(column) for column in zip(*crops, strict=True)]
