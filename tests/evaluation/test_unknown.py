from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from finepoint.evaluation.strangers import KINDS, strangers
from finepoint.evaluation.unknown import auroc, fit_unknown, judge_unknown, kept_threshold, with_threshold
from finepoint.models.unknown import unit_length


def features(count: int, seed: int, width: int = 40) -> np.ndarray:
    """Rows around two middles, that differ in five directions only."""
    generator = np.random.default_rng(seed)
    basis = np.random.default_rng(0).normal(size=(5, width))
    middles = 4 + np.random.default_rng(1).normal(size=(2, width))
    rows = middles[generator.integers(0, 2, count)] + generator.normal(0, 0.3, (count, 5)) @ basis
    return rows.astype(np.float32)


LOGITS = np.zeros((500, 3), np.float32)


@pytest.mark.parametrize("count", [30, 300])
def test_the_distance_is_to_the_third_neighbour_where_all_directions_are_kept(count: int) -> None:
    train, others = features(count, 2), features(20, 3) + np.random.default_rng(4).normal(size=(20, 40))
    detector = fit_unknown(train, directions=40)
    known, placed = unit_length(train, detector.used), unit_length(others, detector.used)
    distances = np.sort(((placed[:, None] - known) ** 2).sum(2), axis=1)[:, 2]
    np.testing.assert_allclose(detector.distances(others.astype(np.float32)), distances, rtol=1e-3)


def test_what_lies_outside_of_the_directions_counts() -> None:
    train, strange = features(300, 2), features(50, 6) + np.random.default_rng(5).normal(0, 2, (50, 40))
    detector = with_threshold(fit_unknown(train, directions=6), features(200, 3), LOGITS[:200])
    found = judge_unknown(detector, (features(400, 7), LOGITS[:400]), {"sideways": (strange, LOGITS[:50])})
    assert found["kept"] == pytest.approx(0.95, abs=0.04)
    assert found["others"] == [{"kind": "sideways", "images": 50, "auroc": 1.0, "false_accepts": 0.0}]


def test_an_image_that_no_class_claims_is_unknown_too() -> None:
    claimed = np.random.default_rng(0).normal(8, 1, (200, 3))
    detector = with_threshold(fit_unknown(features(300, 2)), features(200, 3), claimed)
    known = features(100, 4)
    assert (detector.scores(known, claimed[:100]) <= detector.threshold).mean() > 0.85
    assert (detector.scores(known, claimed[:100] - 8) > detector.threshold).all()


def test_features_that_do_not_count_change_nothing() -> None:
    train, used = features(300, 2), (np.arange(40) < 30).astype(np.float32)
    detector = fit_unknown(train, used)
    others = features(20, 3)
    moved = np.where(used > 0, others, others + 100)
    np.testing.assert_allclose(detector.distances(moved), detector.distances(others), rtol=1e-5)


def test_fitting_twice_gives_the_same_bytes() -> None:
    train = features(400, 2, width=60)
    first, second = (fit_unknown(train.copy()).arrays() for _ in range(2))
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in second.items()
    }


def test_a_threshold_keeps_its_share_of_new_images_on_average() -> None:
    generator = np.random.default_rng(0)
    kept = [(generator.random(1000) <= kept_threshold(generator.random(39), 0.95)).mean() for _ in range(300)]
    assert np.mean(kept) == pytest.approx(0.95, abs=0.006)
    assert kept_threshold(np.array([3.0, 1.0]), 0.95) == 3.0


def test_auroc_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    known, unknown = generator.integers(0, 9, 80), generator.integers(3, 12, 50)
    expected = roc_auc_score([0] * 80 + [1] * 50, np.concatenate([known, unknown]))
    assert auroc(known, unknown) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_are_always_the_same_and_differ_from_each_other(kind: str) -> None:
    first, second = strangers(kind, 4), strangers(kind, 4)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert len({image.tobytes() for image in first}) == 4
    assert all(image.shape == (256, 256, 3) and image.std() > 5 for image in first)
