"""Watching what an endpoint is asked about: the last images, against those that its model was trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from finepoint.evaluation.drift import DIRECTIONS, DriftReference, measure_drift
from finepoint.models.unknown import UnknownDetector
from finepoint.serving.metrics import Gauge

WINDOW = 1000
_TEXT = "How far the last images are from those trained on; `finepoint monitor` says it in words."


class Watch:
    """The last 1,000 images that were answered.

    Args:
        detector: whose coordinates are watched.
        reference: of the package.
    """

    def __init__(self, detector: UnknownDetector, reference: DriftReference) -> None:
        self._detector, self._reference = detector, reference
        self._seen: deque[tuple[np.ndarray, int, bool]] = deque(maxlen=WINDOW)

    def observe(self, features: np.ndarray, predicted: Sequence[int], unknown: Sequence[bool]) -> None:
        """Note images: their features [n, d], the numbers of their classes, whether they are unknown."""
        coordinates = self._detector.coordinates(features)[:, :DIRECTIONS]
        self._seen.extend(zip(coordinates, predicted, unknown, strict=True))

    def drift(self) -> dict[str, Any]:
        """Return what `measure_drift` says of the images seen last; without any only `images`, 0."""
        if not self._seen:
            return {"images": 0}
        coordinates, predicted, unknown = zip(*self._seen, strict=True)
        return measure_drift(self._reference, np.stack(coordinates), np.array(predicted), np.array(unknown))

    def gauge(self) -> Gauge:
        """Return the numbers as a metric, each by its name."""
        return Gauge("finepoint_drift", _TEXT, self.drift, "measure")
