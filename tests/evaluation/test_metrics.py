from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from finepoint.evaluation.calibration import (
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability,
    softmax,
)
from finepoint.evaluation.intervals import wilson_interval
from finepoint.evaluation.labels import confident_mistakes, find_label_issues
from finepoint.evaluation.metrics import evaluate_logits
from finepoint.evaluation.verdict import judge
from finepoint.evaluation.writing import EvaluatedImage, write_evaluation


def example(images: int = 200, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    logits = generator.normal(0, 1, (images, classes))
    logits[np.arange(images), labels] += 1.5
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    logits, labels = example(seed=seed)
    found = evaluate_logits(logits, labels, [str(n) for n in range(7)], temperature=1.3)
    predicted, probabilities = logits.argmax(1), softmax(logits, 1.3)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert found["top_5_accuracy"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(labels, logits, k=5))
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities))
    assert found["confusion"] == sklearn.metrics.confusion_matrix(labels, predicted).tolist()
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for number, row in enumerate(found["per_class"]):
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (precision[number], recall[number], f1[number])
        )


def test_wilson_by_hand() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1.0


def test_classes_without_images_are_null_and_left_out_of_averages() -> None:
    logits = np.array([[2.0, 0, 0], [0, 2.0, 0], [2.0, 0, 0]])
    found = evaluate_logits(logits, np.array([0, 1, 1]), ["a", "b", "c"])
    assert found["balanced_accuracy"] == pytest.approx(0.75)
    assert found["per_class"][2]["recall"] is None
    assert json.dumps(found, allow_nan=False)


def test_one_image() -> None:
    found = evaluate_logits(np.array([[0.0, 1.0]]), np.array([1]), ["a", "b"])
    assert (found["accuracy"], found["top_5_accuracy"]) == (1, 1)
    assert json.dumps(found, allow_nan=False)


def test_calibration_error_by_hand() -> None:
    # Two answers at 0.75 of which one is right, two at 0.55 of which both are: 0.5 * 0.25 + 0.5 * 0.45.
    probabilities = np.array([[0.75, 0.25], [0.75, 0.25], [0.55, 0.45], [0.55, 0.45]])
    assert expected_calibration_error(probabilities, np.array([0, 1, 0, 0])) == pytest.approx(0.35)
    assert sum(row["images"] for row in reliability(probabilities, np.array([0, 1, 0, 0]))) == 4


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (20_000, 4))
    probabilities = softmax(logits)
    labels = (probabilities.cumsum(1) > generator.random((20_000, 1))).argmax(1)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


@given(st.integers(1, 20), st.integers(2, 5), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_temperature_never_makes_the_loss_worse(images: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(0, 10, (images, classes)), generator.integers(0, classes, images)
    temperature = fit_temperature(logits, labels)
    assert 0.05 <= temperature <= 20
    assert log_loss(logits, labels, temperature) <= log_loss(logits, labels) + 1e-6


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([[1e5, -1e5], [-1e5, 1e5]], np.float32)
    assert log_loss(logits, np.array([0, 0])) == pytest.approx(1e5)
    assert np.isfinite(softmax(logits)).all()


def test_planted_label_errors_are_found() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, 400)
    logits = generator.normal(0, 0.5, (400, 4))
    logits[np.arange(400), truth] += 5
    labels = truth.copy()
    planted = generator.choice(400, 12, replace=False)
    labels[planted] = (labels[planted] + 1) % 4
    issues = find_label_issues(softmax(logits), labels)
    assert {issue.index for issue in issues} == set(planted.tolist())
    assert all(issue.suggested == truth[issue.index] for issue in issues)
    assert find_label_issues(softmax(logits), truth) == []


def test_mistakes_come_in_the_order_of_confidence() -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2]])
    assert confident_mistakes(probabilities, np.array([1, 1, 0])) == [1, 0]


def summary(accuracy: float, baseline: float = 0.3, images: int = 400) -> dict[str, object]:
    low, high = wilson_interval(round(accuracy * images), images)
    row = {"name": "a", "images": images, "recall": accuracy}
    test = {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "images": images,
        "majority_baseline": baseline,
        "ece_after": 0.02,
        "per_class": [row],
        "confusion": [[1]],
    }
    return {"test": test, "data": {"findings": []}, "backbones": [{"name": "x", "random": True}], "training": None}


def test_the_verdict_is_relative_to_the_commonest_class() -> None:
    assert judge(summary(0.95))["level"] == "good"
    assert judge(summary(0.80))["level"] == "fair"
    assert judge(summary(0.5))["level"] == "poor"
    assert judge(summary(0.96, baseline=0.95))["level"] == "unusable"
    verdict = judge(summary(0.95))
    assert verdict["headline"].startswith("Right on 380 of 400 test images: 95.0 %")
    assert verdict["findings"][0]["name"] == "RandomWeights"


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    from PIL import Image

    logits, labels = example(30, 3)
    images = []
    for number in range(30):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (500, 300), (number, 0, 0)).save(path)
        images.append(EvaluatedImage(f"<b>{number}", path, f"{number:02x}" * 32))
    metrics = evaluate_logits(logits, labels, ["a", "b", "c"])
    write_evaluation(tmp_path / "out", metrics, logits, labels, ["a", "b", "c"], images)
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert sum(row["label"] == row["predicted"] for row in rows) == round(30 * metrics["accuracy"])
    mistakes = json.loads((tmp_path / "out" / "mistakes.json").read_text())
    assert mistakes["count"] == 30 - round(30 * metrics["accuracy"])
    with Image.open(tmp_path / "out" / mistakes["images"][0]["thumbnail"]) as picture:
        assert picture.size == (160, 96)


def test_a_model_that_knows_little_doubts_no_label() -> None:
    generator = np.random.default_rng(0)
    probabilities = 0.1 + generator.uniform(-0.01, 0.01, (200, 10))
    assert find_label_issues(probabilities / probabilities.sum(1, keepdims=True), generator.integers(0, 10, 200)) == []


def test_the_verdict_names_what_the_debugger_found_and_not_what_it_could_not_judge() -> None:
    found = {"rule": "Overfit", "status": "IssuesFound", "meaning": "It overfits.", "evidence": {}, "remedy": "stop"}
    unjudged = {**found, "rule": "DeadRelu", "status": "NotApplicable"}
    names = [
        finding["name"] for finding in judge({**summary(0.95), "debugger": {"findings": [found, unjudged]}})["findings"]
    ]
    assert "Overfit" in names
    assert "DeadRelu" not in names
