"""Fitting the score that tells unknown images, setting its threshold, and measuring how well it tells them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from finepoint.evaluation.drift import fit_drift
from finepoint.models.building import Reference
from finepoint.models.unknown import UnknownDetector, energy, unit_length

# Chosen by benchmarks/unknown.py; see docs/decisions/036.
NEIGHBOUR = 3
DIRECTIONS = 128
REFERENCES = 2000
KEPT = 0.95


def fit_unknown(
    features: np.ndarray, used: np.ndarray | None = None, *, directions: int = DIRECTIONS, seed: int = 0
) -> UnknownDetector:
    """Return the detector for training features float32 [n, d]; it has no threshold yet.

    Args:
        features: of the training images.
        used: float32 [d], 1 for features that count and 0 for others; by default all count.
        directions: how many are kept, at most; those in which the images differ most.
        seed: of the choice of references, where there are more than 2,000 images.
    """
    from scipy.linalg import eigh
    from threadpoolctl import threadpool_limits

    count, width = features.shape
    used = np.ones(width, np.float32) if used is None else used.astype(np.float32)
    # On one thread sums are added in one order: the same training gives the same bytes.
    with threadpool_limits(1):
        placed = unit_length(features, used)
        centre = placed.mean(axis=0, dtype=np.float64)
        rest = placed - centre
        k = max(1, min(directions, count - 1, int(used.sum())))
        if count < width:
            values, vectors = eigh(rest @ rest.T, subset_by_index=[max(0, count - k), count - 1])
            found = rest.T @ (vectors / np.sqrt(np.maximum(values, np.finfo(float).tiny)))
        else:
            found = eigh(rest.T @ rest, subset_by_index=[width - k, width - 1])[1]
        found = found[:, ::-1]
        # An eigenvector's sign is arbitrary: its largest part shall be positive.
        found = found * np.sign(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])])
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:REFERENCES])
        return UnknownDetector(
            used,
            centre.astype(np.float32),
            np.ascontiguousarray(found, np.float32),
            np.ascontiguousarray(rest[chosen] @ found, np.float32),
            min(NEIGHBOUR, len(chosen)),
        )


def with_threshold(
    detector: UnknownDetector, features: np.ndarray, logits: np.ndarray, kept: float = KEPT
) -> UnknownDetector:
    """Return the detector with the scales and the threshold that validation images give it.

    Args:
        detector: of the training images.
        features: [n, d] of the validation images.
        logits: [n, classes] likewise.
        kept: the share of such images that shall pass for known.
    """
    distances, energies = detector.distances(features), energy(logits)
    scaled = replace(
        detector,
        distance_mean=_rounded(distances.mean()),
        distance_deviation=_deviation(distances),
        energy_mean=_rounded(energies.mean()),
        energy_deviation=_deviation(energies),
    )
    return replace(scaled, threshold=kept_threshold(scaled.scores(features, logits), kept))


def kept_threshold(scores: np.ndarray, kept: float) -> float:
    """Return the threshold below which a new image of the same kind stays with a probability of `kept`.

    It is the split-conformal quantile: of n scores the ceil((n + 1) kept)-th smallest, or the largest
    where n is too small for that. Source: V. Vovk et al., "Algorithmic learning in a random world", 2005.

    >>> kept_threshold(np.arange(1.0, 20.0), 0.95)
    19.0
    """
    place = min(len(scores), math.ceil(round((len(scores) + 1) * kept, 9)))
    return _rounded(np.sort(scores)[place - 1])


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the probability that an unknown image's score is above a known one's (ties count half).

    >>> auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.875
    """
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, "left") + np.searchsorted(ordered, unknown, "right")
    return float(below.sum() / (2 * len(known) * len(unknown)))


def fit_reference(
    train: np.ndarray, valid: np.ndarray, valid_logits: np.ndarray, *, used: np.ndarray | None = None, seed: int = 0
) -> Reference:
    """Return what a package keeps of the images trained on: the detector, its threshold, and what drift is measured by.

    Args:
        train: features [n, d] of the training images.
        valid: likewise of the validation images.
        valid_logits: their logits [v, classes].
        used: float32 [d], 1 for features that count and 0 for others; by default all count.
        seed: of the choice of references.
    """
    detector = with_threshold(fit_unknown(train, used, seed=seed), valid, valid_logits)
    drift = fit_drift(detector, train, valid_logits)
    description = {
        "score": "nearest neighbours and energy",
        "directions": detector.directions.shape[1],
        "references": len(detector.references),
        "kept": KEPT,
        "images": {"train": drift.images, "valid": len(valid)},
        **detector.numbers(),
    }
    return Reference(description, {**detector.arrays(), **drift.arrays()})


def judge_unknown(
    detector: UnknownDetector,
    test: tuple[np.ndarray, np.ndarray],
    others: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """Return the `unknown` object of a summary's `test`.

    Args:
        detector: with its threshold.
        test: features [n, d] and logits [n, classes] of the test images.
        others: likewise of images of none of the classes, by their kind.
    """
    inside = detector.scores(*test)
    kinds = []
    for kind, strange in others.items():
        outside = detector.scores(*strange)
        kinds.append(
            {
                "kind": kind,
                "images": len(outside),
                "auroc": round(auroc(inside, outside), 4),
                "false_accepts": round(float((outside <= detector.threshold).mean()), 4),
            }
        )
    return {"kept": round(float((inside <= detector.threshold).mean()), 4), "others": kinds}


def _deviation(values: np.ndarray) -> float:
    """Return the standard deviation, or 1 where all values are the same but for rounding."""
    deviation = float(values.std())
    return _rounded(deviation) if deviation > 1e-6 * max(1.0, float(np.abs(values).max())) else 1.0


def _rounded(value: float) -> float:
    """Return a number with six digits: what the description shows is what is computed with."""
    return float(f"{value:.6g}")
