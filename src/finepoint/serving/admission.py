"""Who is let in: so many images at once, so that those who are let in are answered soon."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Service:
    """Bounds of the service.

    Args:
        queue_images: images let in at once (waiting, being decoded, being computed); more are refused with 503.
        queue_seconds: that a decoded image may wait for the device before it is refused.
        request_seconds: that a request may take from its head to its answer; SageMaker's runtime gives 60.
        window: images of one request that are in work at once, so that a large request does not hold up small ones.
        max_batch: images that the device computes at once.
        decoders: processes that decode; 0 takes one for each core.
    """

    queue_images: int = 16
    queue_seconds: float = 5.0
    request_seconds: float = 60.0
    window: int = 8
    max_batch: int = 8
    decoders: int = 0


# What gathers at a rate that the machine bears while a worker is replaced, with some to spare.
_MORE = 8


class Admission:
    """Counts the images in work.

    Args:
        limit: of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._more_until = 0.0
        self.images = 0

    @property
    def full(self) -> bool:
        """Whether a request must be refused now."""
        return self.images >= self._limit * (_MORE if time.monotonic() < self._more_until else 1)

    def bear_more(self, seconds: float) -> None:
        """Let several times as many in for so long: who comes while a worker is replaced waits, and is not refused.

        >>> admission = Admission(1)
        >>> admission.images = 1
        >>> before = admission.full
        >>> admission.bear_more(60)
        >>> before, admission.full
        (True, False)
        """
        self._more_until = time.monotonic() + seconds

    @contextmanager
    def holding(self, images: int) -> Iterator[None]:
        """Count so many images while the block runs."""
        self.images += images
        try:
            yield
        finally:
            self.images -= images

    def retry_after(self, seconds_per_image: float) -> str:
        """Return after how many whole seconds it is worth trying again, as the header wants it."""
        return str(max(1, math.ceil(self.images * seconds_per_image)))
