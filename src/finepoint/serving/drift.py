"""Watching what an endpoint is asked about: the last images, against those that its model was trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finepoint.evaluation.drift import DIRECTIONS, DriftReference, measure_drift
from finepoint.models.unknown import UnknownDetector
from finepoint.serving.metrics import Gauge

WINDOW = 1000
_TEXTS = {
    "images": "Images that drift is measured on, the last ones.",
    "feature_psi": "Population stability index of the features against training's.",
    "feature_psi_by_chance": "What it is without a change, on so few images.",
    "feature_shift": "How far the features' mean has moved, in standard deviations.",
    "feature_shift_by_chance": "What it is without a change, on so few images.",
    "prediction_psi": "Population stability index of the predictions against validation's.",
    "prediction_psi_by_chance": "What it is without a change, on so few images.",
    "unknown_share": "Share of images that seem to be of none of the classes.",
}


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

    def metrics(self) -> list[Gauge]:
        """Return a gauge for each number; before the first image they are 0."""

        def reading(name: str) -> Callable[[], float]:
            return lambda: float(self.drift().get(name, 0))

        return [Gauge(f"finepoint_drift_{name}", text, reading(name)) for name, text in _TEXTS.items()]
