"""What is said of a classifier on images that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from finepoint.evaluation.calibration import expected_calibration_error, log_loss, reliability, softmax
from finepoint.evaluation.intervals import wilson_interval


def evaluate_logits(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, temperature: float = 1.0
) -> dict[str, Any]:
    """Return every metric, as the `test` object of `summary.json`.

    Averages over classes (balanced accuracy, macro F1) are over the classes that occur. A class without images has null
    for recall and F1. Log loss and confidences are of calibrated probabilities.

    Args:
        logits: float [n, classes], n at least 1.
        labels: int [n].
        classes: the class names.
        temperature: that calibrates; fitted on other images.
    """
    raw, calibrated = softmax(logits), softmax(logits, temperature)
    predicted = np.argmax(logits, axis=1)
    images, right = len(labels), int((predicted == labels).sum())
    confusion = confusion_matrix(labels, predicted, len(classes))
    per_class = [_of_class(name, confusion, number) for number, name in enumerate(classes)]
    present = [row for row in per_class if row["images"]]
    low, high = wilson_interval(right, images)
    majority = int(np.bincount(labels, minlength=len(classes)).max())
    return {
        "images": images,
        "accuracy": right / images,
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": float(np.mean([row["recall"] for row in present])),
        "macro_f1": float(np.mean([row["f1"] for row in present])),
        "top_5_accuracy": top_k_accuracy(logits, labels, 5),
        "log_loss": log_loss(logits, labels, temperature),
        "ece_before": expected_calibration_error(raw, labels),
        "ece_after": expected_calibration_error(calibrated, labels),
        "temperature": temperature,
        "majority_baseline": majority / images,
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "reliability_before": reliability(raw, labels),
        "reliability_after": reliability(calibrated, labels),
    }


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return int [classes, classes]: rows are true classes, columns predicted ones.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of images whose class is among the k likeliest (all of them, if there are fewer classes)."""
    k = min(k, logits.shape[1])
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def _of_class(name: str, confusion: np.ndarray, number: int) -> dict[str, Any]:
    images, named = int(confusion[number].sum()), int(confusion[:, number].sum())
    right = int(confusion[number, number])
    precision = right / named if named else (0.0 if images else None)
    recall = right / images if images else None
    f1 = 2 * right / (images + named) if images else None
    low, high = wilson_interval(right, images) if images else (None, None)
    return {
        "name": name,
        "images": images,
        "precision": precision,
        "recall": recall,
        "recall_low": low,
        "recall_high": high,
        "f1": f1,
    }
