"""Images whose label is probably wrong, and the mistakes that were made with the most confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """An image whose label is probably wrong.

    Args:
        index: which image.
        suggested: the class index that it rather belongs to.
        margin: probability of that class less that of the given one.
    """

    index: int
    suggested: int
    margin: float


def find_label_issues(probabilities: np.ndarray, labels: np.ndarray) -> list[LabelIssue]:
    """Return images that look confidently like another class than they are labelled, the clearest first.

    An image counts as class j if its probability of j is at least the mean that images labelled j have;
    where it counts as classes other than its own only, its label is doubted (confident learning), provided that the
    other class is likelier than all the rest together: a model that knows little doubts nothing.

    Source: C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident learning: estimating uncertainty in dataset
    labels", JAIR 70 (2021).

    Args:
        probabilities: [n, classes], of a model that was not trained on these images.
        labels: int [n].
    """
    classes = probabilities.shape[1]
    thresholds = np.array(
        [
            probabilities[labels == number, number].mean() if (labels == number).any() else 1.1
            for number in range(classes)
        ]
    )
    counts_as = probabilities >= thresholds
    best = np.where(counts_as, probabilities, -1).argmax(axis=1)
    doubted = counts_as.any(axis=1) & (best != labels) & (probabilities.max(axis=1) > 0.5)
    doubted &= probabilities.argmax(axis=1) == best
    issues = [
        LabelIssue(
            int(index),
            int(best[index]),
            float(probabilities[index, best[index]] - probabilities[index, labels[index]]),
        )
        for index in np.flatnonzero(doubted)
    ]
    return sorted(issues, key=lambda issue: (-issue.margin, issue.index))


def confident_mistakes(probabilities: np.ndarray, labels: np.ndarray) -> list[int]:
    """Return the indices of wrong answers, the most confident first.

    >>> confident_mistakes(np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]), np.array([1, 0, 1]))
    [0, 1]
    """
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return [int(index) for index in sorted(wrong, key=lambda index: -probabilities[index].max())]
