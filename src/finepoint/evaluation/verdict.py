"""The verdict: how good, how sure, and what to mend first, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finepoint.findings import Finding

_WIDE = 0.06  # an interval of ± 3 points
_MISCALIBRATED = 0.05
_OVERFIT_GAP = 0.10
_WEAK_RECALL = 0.75
_ENOUGH = 5  # test images of a class, below which its recall says nothing


def judge(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `verdict` object of a summary that has a `test` object.

    Args:
        summary: of a run, as in `summary.json`.

    Returns:
        `headline`, `level` (`good`, `fair`, `poor`, `unusable`), `sentences`, and `findings`, the most important first.
    """
    test = summary["test"]
    right, images = round(test["accuracy"] * test["images"]), test["images"]
    headline = (
        f"Right on {right:,} of {images:,} test images: {_percent(test['accuracy'])} "
        f"(95 % interval {_percent(test['accuracy_low'])} to {_percent(test['accuracy_high'])})"
    )
    return {
        "headline": headline,
        "level": _level(test),
        "sentences": [_against_baseline(test), _how_sure(test), _calibration(test)],
        "findings": [finding.to_json() for finding in _findings(summary)][:6],
    }


def _level(test: Mapping[str, Any]) -> str:
    if test["accuracy_low"] <= test["majority_baseline"]:
        return "unusable"
    # How much of what the majority baseline gets wrong is now right.
    gain = (test["accuracy"] - test["majority_baseline"]) / max(1 - test["majority_baseline"], 1e-9)
    return "good" if gain >= 0.85 else "fair" if gain >= 0.6 else "poor"


def _against_baseline(test: Mapping[str, Any]) -> str:
    baseline = _percent(test["majority_baseline"])
    if test["accuracy_low"] <= test["majority_baseline"]:
        return f"That is not clearly better than always naming the commonest class, which gets {baseline}."
    return f"Always naming the commonest class would get {baseline}."


def _how_sure(test: Mapping[str, Any]) -> str:
    width = test["accuracy_high"] - test["accuracy_low"]
    half = f"± {100 * width / 2:.1f} points"
    needed = int(test["images"] * (width / _WIDE) ** 2)
    if needed > 1.1 * test["images"]:
        return (
            f"The test part is small: the figure is known to {half}. "
            f"About {needed:,} test images would bring that to ± 3."
        )
    return f"With {test['images']:,} test images the figure is known to {half}."


def _calibration(test: Mapping[str, Any]) -> str:
    gap = 100 * test["ece_after"]
    if test["ece_after"] <= _MISCALIBRATED:
        return f"Its probabilities can be taken at their word: on average they are off by {gap:.1f} points."
    return f"Its probabilities are off by {gap:.1f} points on average: read them as a ranking, not as chances."


def _findings(summary: Mapping[str, Any]) -> list[Finding]:
    test = summary["test"]
    found = [
        _random_weights(summary),
        *_from_data(summary),
        _overfit(summary),
        *_from_debugger(summary),
        *_weak_classes(test),
        _confused(test),
        _doubtful_labels(summary),
        _small_test(test),
    ]
    return [finding for finding in found if finding is not None]


def _random_weights(summary: Mapping[str, Any]) -> Finding | None:
    names = [backbone["name"] for backbone in summary.get("backbones", []) if backbone.get("random")]
    if not names:
        return None
    return Finding(
        "RandomWeights",
        "error",
        f"the weights of {', '.join(names)} are random: nothing here says what the method can do",
        {"backbones": names},
        "leave out --weights random",
    )


def _from_data(summary: Mapping[str, Any]) -> list[Finding]:
    findings = [Finding.from_json(value) for value in summary.get("data", {}).get("findings", [])]
    return [finding for finding in findings if finding.severity != "info"]


def _from_debugger(summary: Mapping[str, Any]) -> list[Finding]:
    """Return what the debugger's rules found; a rule that could not judge has found nothing, and is no pass either."""
    return [
        Finding(value["rule"], "warning", _uncapitalised(value["meaning"]), value["evidence"], value["remedy"])
        for value in summary.get("debugger", {}).get("findings", [])
        if value["status"] == "IssuesFound"
    ]


def _overfit(summary: Mapping[str, Any]) -> Finding | None:
    training = summary.get("training") or {}
    best = next((row for row in training.get("epochs", []) if row["epoch"] == training.get("best_epoch")), None)
    if best is None or best["train_accuracy"] - best["valid_accuracy"] < _OVERFIT_GAP:
        return None
    return Finding(
        "Overfit",
        "warning",
        f"it is right on {_percent(best['train_accuracy'])} of the training images but on "
        f"{_percent(best['valid_accuracy'])} of the validation images: it learns single pictures by heart",
        {"train_accuracy": best["train_accuracy"], "valid_accuracy": best["valid_accuracy"]},
        "add training images, or give --weight-decay 0.0001 or --dropout 0.3",
    )


def _weak_classes(test: Mapping[str, Any]) -> list[Finding]:
    weak = [row for row in test["per_class"] if row["images"] >= _ENOUGH and row["recall"] < _WEAK_RECALL]
    weak.sort(key=lambda row: row["recall"])
    return [
        Finding(
            "WeakClass",
            "warning",
            f"{row['name']!r}: {round(row['recall'] * row['images'])} of {row['images']} test images recognised",
            {"class": row["name"], "recall": row["recall"], "images": row["images"]},
            f"add training images of {row['name']!r}, and look at its mistakes in the report",
        )
        for row in weak[:2]
    ]


def _confused(test: Mapping[str, Any]) -> Finding | None:
    names = [row["name"] for row in test["per_class"]]
    pairs = [
        (count, names[row], names[column])
        for row, line in enumerate(test["confusion"])
        for column, count in enumerate(line)
        if row != column and count
    ]
    if not pairs:
        return None
    count, true, taken = max(pairs, key=lambda pair: pair[0])
    if count < 3:
        return None
    return Finding(
        "ConfusedPair",
        "info",
        f"the commonest mistake, made {count} times: {true!r} taken for {taken!r}",
        {"true": true, "predicted": taken, "count": count},
        "add images that show the difference, or join the two classes if it does not matter",
    )


def _doubtful_labels(summary: Mapping[str, Any]) -> Finding | None:
    count = summary["test"].get("label_issues", 0)
    # The doubts of a model that is mostly wrong say more about itself than about the labels.
    if count < 3 or summary["test"]["accuracy"] < 0.5:
        return None
    return Finding(
        "DoubtfulLabels",
        "warning",
        f"{count} test images look confidently like another class than their label says",
        {"count": count},
        "look at them in the report; wrong test labels make the figures worse than the model is",
    )


def _small_test(test: Mapping[str, Any]) -> Finding | None:
    if test["images"] >= 100:
        return None
    return Finding(
        "SmallTestPart",
        "warning",
        f"the test part has only {test['images']} images; small differences mean nothing",
        {"images": test["images"]},
        "add test images, or set more aside with --test-fraction 0.2",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _uncapitalised(sentence: str) -> str:
    """Return a sentence as findings have it: without a capital (unless it is a name's) and without a full stop.

    >>> _uncapitalised("A ReLU stands here."), _uncapitalised("ReLU is dead.")
    ('a ReLU stands here', 'ReLU is dead')
    """
    stripped = sentence.rstrip(".")
    first = stripped.split(" ", 1)[0]
    return stripped if first[1:] != first[1:].lower() else stripped[:1].lower() + stripped[1:]
