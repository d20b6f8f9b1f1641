from __future__ import annotations

import numpy as np
import pytest

from finepoint.evaluation.drift import drift_words, fit_drift, measure_drift, psi
from finepoint.evaluation.unknown import fit_unknown


def images(count: int, seed: int, moved: float = 0.0) -> np.ndarray:
    """Features of length about 1 whose first direction may have moved."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(0, 0.2, (count, 30)) * np.linspace(1, 0.3, 30) + 0.5
    rows[:, 0] += moved
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> tuple:
    train = images(2000, 0)
    detector = fit_unknown(train)
    logits = np.eye(3)[np.random.default_rng(1).integers(0, 3, 400)]
    return detector, fit_drift(detector, train, logits)


def measured(reference: tuple, seen: np.ndarray, predicted: np.ndarray | None = None, unknown: float = 0.05) -> dict:
    detector, drift = reference
    count = len(seen)
    predicted = np.arange(count) % 3 if predicted is None else predicted
    return measure_drift(drift, detector.coordinates(seen), predicted, np.arange(count) < unknown * count)


def test_images_of_the_same_kind_have_not_changed(reference: tuple) -> None:
    found = measured(reference, images(400, 5))
    assert found["feature_psi"] == pytest.approx(found["feature_psi_by_chance"], abs=0.02)
    assert found["feature_shift"] == pytest.approx(found["feature_shift_by_chance"], abs=0.04)
    assert found["unknown_share"] == 0.05
    assert drift_words(found) == ["The last 400 images are like those that the model was trained on."]


def test_moved_features_other_predictions_and_many_unknown_images_are_each_said(reference: tuple) -> None:
    moved = measured(reference, images(400, 5, moved=2.0))
    assert moved["feature_psi"] > 0.25 + moved["feature_psi_by_chance"]
    assert moved["feature_shift"] > 5 * moved["feature_shift_by_chance"]
    assert drift_words(moved)[0].startswith("What the images look like has changed much")
    other = measured(reference, images(400, 5), predicted=np.zeros(400, int))
    assert "What is predicted has changed much" in drift_words(other)[0]
    strange = measured(reference, images(400, 5), unknown=0.3)
    assert drift_words(strange) == ["30 % of the images seem to be of none of the classes; 5 % are usual."]


def test_of_few_images_nothing_is_said(reference: tuple) -> None:
    assert drift_words(measured(reference, images(20, 5, moved=3.0)))[0].startswith("Too few images to say: 20 so far")
    assert drift_words({"images": 0})[0].startswith("Too few")


def test_psi_by_hand() -> None:
    # (0.75 - 0.25) ln 3 twice; half an image more in each bin.
    assert psi(np.array([149.5, 49.5]), np.array([49.5, 149.5])) == pytest.approx(np.log(3), rel=1e-9)
