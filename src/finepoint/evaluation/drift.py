"""Whether images that come in are still like those trained on, by population distances. No torch.

The population stability index (PSI) compares shares of images in bins: ``sum (now - then) ln(now / then)``. Of features
it is the mean over the first directions of the unknown images' score, each cut into tenths of the training images; of
predictions the bins are the classes, as they were predicted for the validation images. Below 0.1 is customarily read as
no change, above 0.25 as a large one (N. Siddiqi, "Credit risk scorecards", 2006). With few images the index is above 0
by chance alone: about ``(bins - 1) (1/n + 1/m)``, which is stated beside it and taken off before it is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.models.unknown import REFERENCE, UnknownDetector

DIRECTIONS = 16
CHANGED, CHANGED_MUCH = 0.1, 0.25
# Images below which nothing is said: by chance alone ten bins give a PSI of 0.09 then.
ENOUGH = 100
_BINS = 10
_ARRAYS = ("edges", "means", "deviations", "predictions")


@dataclass(frozen=True)
class DriftReference:
    """What the images trained on were like.

    Args:
        edges: float32 [m, 9], between tenths of the training images along each direction.
        means: float32 [m], of the training images along each direction, and `deviations`, float32 [m].
        predictions: float32 [classes], how many validation images were predicted to be of each class.
        images: training images behind `edges`.
    """

    edges: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    predictions: np.ndarray
    images: int

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what the package keeps as tensors, by name."""
        return {f"drift.{name}": getattr(self, name) for name in _ARRAYS}


def fit_drift(detector: UnknownDetector, train: np.ndarray, valid_logits: np.ndarray) -> DriftReference:
    """Return the reference for training features [n, d] and the validation images' logits [v, classes]."""
    coordinates = detector.coordinates(train)[:, :DIRECTIONS].astype(np.float64)
    edges = np.quantile(coordinates, np.arange(1, _BINS) / _BINS, axis=0).T
    counts = np.bincount(valid_logits.argmax(axis=1), minlength=valid_logits.shape[1])
    deviations = np.maximum(coordinates.std(axis=0), 1e-9)
    return DriftReference(
        np.ascontiguousarray(edges, np.float32),
        coordinates.mean(axis=0).astype(np.float32),
        deviations.astype(np.float32),
        counts.astype(np.float32),
        len(train),
    )


def load_drift(folder: Path, description: Mapping[str, Any]) -> DriftReference | None:
    """Return the reference in a package's folder, or None where the package was made without one."""
    kept = description.get("unknown")
    if kept is None:
        return None
    from safetensors.numpy import load_file

    arrays = load_file(folder / REFERENCE)
    edges, means, deviations, predictions = (arrays[f"drift.{name}"] for name in _ARRAYS)
    return DriftReference(edges, means, deviations, predictions, int(kept["images"]["train"]))


def measure_drift(
    reference: DriftReference, coordinates: np.ndarray, predicted: np.ndarray, unknown: np.ndarray
) -> dict[str, float | int]:
    """Return how far images are from those trained on.

    Args:
        reference: of the package.
        coordinates: float [n, m or more], along the detector's directions; n is at least 1.
        predicted: int [n], numbers of the most probable classes.
        unknown: bool [n].

    Returns:
        `images`; `feature_psi` and `prediction_psi`, each with what chance alone gives, `..._by_chance`;
        `feature_shift`, the root mean square, over the directions, of how many standard deviations the mean has moved;
        `unknown_share`.
    """
    count, directions = len(coordinates), len(reference.edges)
    now = coordinates[:, :directions]
    parts = []
    for direction in range(directions):
        bins = np.bincount(np.searchsorted(reference.edges[direction], now[:, direction]), minlength=_BINS)
        parts.append(psi(bins, np.full(_BINS, reference.images / _BINS)))
    moved = (now.mean(axis=0) - reference.means) / reference.deviations
    then = reference.predictions
    chance = 1 / count + 1 / reference.images
    return {
        "images": count,
        "feature_psi": float(np.mean(parts)),
        "feature_psi_by_chance": (_BINS - 1) * chance,
        "feature_shift": float(np.sqrt(np.mean(moved**2))),
        "feature_shift_by_chance": float(np.sqrt(chance)),
        "prediction_psi": psi(np.bincount(predicted, minlength=len(then)), then),
        "prediction_psi_by_chance": (len(then) - 1) * (1 / count + 1 / float(max(then.sum(), 1))),
        "unknown_share": float(unknown.mean()),
    }


def psi(now: np.ndarray, then: np.ndarray) -> float:
    """Return the population stability index of two sets of counts in the same bins; half an image is added to each bin.

    >>> psi(np.array([50, 50]), np.array([500, 500]))
    0.0
    >>> round(psi(np.array([90, 10]), np.array([50, 50])), 2)
    0.85
    """
    a, b = now + 0.5, then + 0.5
    a, b = a / a.sum(), b / b.sum()
    return float(((a - b) * np.log(a / b)).sum())


def drift_words(drift: Mapping[str, float | int]) -> list[str]:
    """Return in words whether the images have changed, the most important first."""
    images = int(drift["images"])
    if images < ENOUGH:
        return [f"Too few images to say: {images} so far, {ENOUGH} are needed."]
    words = []
    for key, what in (("feature_psi", "What the images look like"), ("prediction_psi", "What is predicted")):
        excess = drift[key] - drift[f"{key}_by_chance"]
        much = "has changed much" if excess > CHANGED_MUCH else "has changed" if excess > CHANGED else ""
        if much:
            words.append(
                f"{what} {much} since training (PSI {drift[key]:.2f}, {drift[f'{key}_by_chance']:.2f} by chance)."
            )
    # Three standard errors above the one in twenty that the threshold lets through.
    if drift["unknown_share"] > 0.05 + 3 * (0.05 * 0.95 / images) ** 0.5:
        words.append(
            f"{100 * drift['unknown_share']:.0f} % of the images seem to be of none of the classes; 5 % are usual."
        )
    return words or [f"The last {images} images are like those that the model was trained on."]
