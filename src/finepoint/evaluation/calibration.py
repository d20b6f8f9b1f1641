"""Calibration: making probabilities mean what they say, and measuring whether they do."""

from __future__ import annotations

import numpy as np

# Temperatures outside of these bounds come from too few images, not from a miscalibrated model.
_LOWEST, _HIGHEST = 0.05, 20.0


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return probabilities, float64 [n, classes], of logits [n, classes] divided by a temperature.

    >>> softmax(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    values = np.exp(scaled)
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log likelihood, in nats, of labels [n] under logits [n, classes].

    >>> round(log_loss(np.zeros((3, 4)), np.array([0, 1, 2])), 4)
    1.3863
    """
    scaled = np.asarray(logits, np.float64) / temperature
    highest = scaled.max(axis=1)
    normaliser = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
    return float(np.mean(normaliser - scaled[np.arange(len(labels)), labels]))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature, within 0.05..20, under which labels [n] are likeliest given logits [n, classes].

    The loss is convex in the inverse temperature, so that a golden-section search finds its minimum. Where every
    label is right the loss falls without end as the temperature does; then 1, which changes nothing, is returned.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    if len(labels) == 0 or bool((np.argmax(logits, axis=1) == labels).all()):
        return 1.0
    low, high = 1 / _HIGHEST, 1 / _LOWEST
    ratio = (5**0.5 - 1) / 2
    for _ in range(80):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if log_loss(logits, labels, 1 / left) <= log_loss(logits, labels, 1 / right):
            high = right
        else:
            low = left
    return round(2 / (low + high), 6)


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> list[dict[str, float | int]]:
    """Return, for equal bins of confidence that are not empty, how many answers fell there and how many were right.

    Args:
        probabilities: [n, classes].
        labels: int [n].
        bins: how many equal parts 0..1 is divided into.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "images": int((place == number).sum()),
            "confidence": float(confidence[place == number].mean()),
            "accuracy": float(right[place == number].mean()),
        }
        for number in range(bins)
        if (place == number).any()
    ]


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over bins, weighted by their images, 0..1.

    Source: M. P. Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.

    >>> expected_calibration_error(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]))
    0.4
    """
    rows = reliability(probabilities, labels, bins)
    total = sum(row["images"] for row in rows)
    return round(sum(row["images"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / total, 12)
