"""Telling images that are of none of the classes, by how far they lie from those trained on. No torch.

The score is the sum of two parts, each in standard deviations of the validation images:

- the squared distance to the third nearest of some training images, between last features scaled to length 1. Distances
  are measured along the directions in which the training images differ most; what lies outside of these directions is
  added, so that nothing escapes by differing in a new way (which costs two small products an image);
- the energy, ``-log(sum(exp(logits)))``: how little any class claims the image.

The first tells what is strange to the eye, the second helps with what is akin to the classes.

Sources: Y. Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022; W. Liu et al.,
"Energy-based out-of-distribution detection", NeurIPS 2020; H. Wang et al., "ViM: out-of-distribution with virtual-logit
matching", CVPR 2022, for their sum and for what lies outside. docs/decisions/036 has the comparison with other scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.errors import PackageError

REFERENCE = "reference.safetensors"
_ARRAYS = ("used", "centre", "directions", "references")
_NUMBERS = ("distance_mean", "distance_deviation", "energy_mean", "energy_deviation", "threshold")


@dataclass(frozen=True)
class UnknownDetector:
    """A fitted score and its threshold.

    Args:
        used: float32 [d], 1 for features that count and 0 for others.
        centre: float32 [d], the middle of the training images' features of length 1.
        directions: float32 [d, k], orthonormal.
        references: float32 [r, k], coordinates of training images along the directions.
        neighbour: the distance to so many nearest ones counts.
        distance_mean: of the validation images' distances, and `distance_deviation`.
        energy_mean: likewise of their energies, and `energy_deviation`.
        threshold: an image with a higher score is unknown.
    """

    used: np.ndarray
    centre: np.ndarray
    directions: np.ndarray
    references: np.ndarray
    neighbour: int
    distance_mean: float = 0.0
    distance_deviation: float = 1.0
    energy_mean: float = 0.0
    energy_deviation: float = 1.0
    threshold: float = float("inf")

    def scores(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the score, float64 [n], of features [n, d] and logits [n, classes]."""
        distance = (self.distances(features) - self.distance_mean) / self.distance_deviation
        return np.asarray(distance + (energy(logits) - self.energy_mean) / self.energy_deviation)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return the first part of the score, float64 [n], as it is, of features [n, d]."""
        coordinates, outside = self._placed(features)
        near = np.partition(self.to_references(coordinates), self.neighbour - 1, axis=1)[:, self.neighbour - 1]
        return np.asarray(near + outside, np.float64)

    def coordinates(self, features: np.ndarray) -> np.ndarray:
        """Return the coordinates, float32 [n, k], of features [n, d] along the directions."""
        return self._placed(features)[0]

    def to_references(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the squared distances [n, r] of coordinates [n, k] to the references."""
        squares = (coordinates**2).sum(1)[:, None] + (self.references**2).sum(1)
        return np.asarray(np.maximum(squares - 2 * coordinates @ self.references.T, 0))

    def judge(self, features: np.ndarray, logits: np.ndarray) -> list[dict[str, Any]]:
        """Return what an answer says of each image: `unknown`, the score, the threshold."""
        return [
            {
                "unknown": score > self.threshold,
                "unknown_score": float(f"{score:.6g}"),
                "unknown_threshold": self.threshold,
            }
            for score in self.scores(features, logits).tolist()
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what the package keeps as tensors, by name."""
        return {f"unknown.{name}": getattr(self, name) for name in _ARRAYS}

    def numbers(self) -> dict[str, float | int]:
        """Return what the package keeps in its description, by name."""
        return {"neighbour": self.neighbour, **{name: getattr(self, name) for name in _NUMBERS}}

    def _placed(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return coordinates [n, k], and the squared length [n] of what lies outside of the directions."""
        placed = unit_length(features, self.used) - self.centre
        coordinates = placed @ self.directions
        return coordinates, np.maximum((placed**2).sum(1) - (coordinates**2).sum(1), 0)


def unit_length(features: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return features [n, d], times used [d], each row divided by its length; a row of zeros stays so."""
    values = features.astype(np.float32) * used
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1), np.float32)


def energy(logits: np.ndarray) -> np.ndarray:
    """Return the energy, float64 [n], of logits [n, classes].

    >>> float(round(energy(np.zeros((1, 4)))[0], 4))
    -1.3863
    """
    values = np.asarray(logits, np.float64)
    highest = values.max(axis=1)
    return np.asarray(-highest - np.log(np.exp(values - highest[:, None]).sum(axis=1)))


def load_unknown(folder: Path, description: Mapping[str, Any]) -> UnknownDetector | None:
    """Return the detector in a package's folder, or None where the package was made without one.

    Raises:
        PackageError: it should be there, and is not.
    """
    kept = description.get("unknown")
    if kept is None:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / REFERENCE)
        used, centre, directions, references = (arrays[f"unknown.{name}"] for name in _ARRAYS)
        numbers = [float(kept[name]) for name in _NUMBERS]
        return UnknownDetector(used, centre, directions, references, int(kept["neighbour"]), *numbers)
    except (OSError, SafetensorError, KeyError) as error:
        raise PackageError(f"{folder / REFERENCE} is damaged or missing ({error}); make the package again") from error
