from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from finepoint.errors import InputError
from finepoint.evaluation.explaining import explain, picture
from finepoint.models.graphs import HeadLayers

CLASSES = ("a", "b", "c")
CHANNELS, STAGES = 5, 3


def case(hidden: int | None) -> tuple[HeadLayers, np.ndarray, np.ndarray]:
    """A head, and an image's features and map: five channels, averaged, and three averages of earlier stages."""
    generator = np.random.default_rng(3)
    feature_map = np.abs(generator.normal(size=(CHANNELS, 4, 6))).astype(np.float32)
    features = np.concatenate([feature_map.mean(axis=(1, 2)), generator.normal(size=STAGES)]).astype(np.float32)
    widths = [CHANNELS + STAGES, *([hidden] if hidden else []), len(CLASSES)]
    layers = tuple(
        (generator.normal(size=(b, a)).astype(np.float32), generator.normal(size=b).astype(np.float32))
        for a, b in itertools.pairwise(widths)
    )
    shift, scale = (generator.uniform(0.5, 2, widths[0]).astype(np.float32) for _ in range(2))
    return HeadLayers(shift, scale, layers), features, feature_map


def evidence(head: HeadLayers, features: np.ndarray, place: int) -> float:
    logits = head.logits(features[None])[0].astype(float)
    return float(logits[place] - logits.mean())


@pytest.mark.parametrize("hidden", [None, 7])
def test_the_heats_average_is_what_the_last_features_add_to_the_evidence(hidden: int | None) -> None:
    head, features, feature_map = case(hidden)
    for place, label in enumerate(CLASSES):
        found = explain(head, CLASSES, features, feature_map, label)
        assert found.evidence == pytest.approx(evidence(head, features, place), abs=1e-4)
        assert found.heat.mean() == pytest.approx(found.last, abs=1e-4)
        # By difference quotients: how the evidence changes with the features, times the features.
        step, parts = 1e-3, []
        for index in range(len(features)):
            moved = features.copy()
            moved[index] += step
            parts.append((evidence(head, moved, place) - found.evidence) / step * features[index])
        assert found.last == pytest.approx(sum(parts[:CHANNELS]), abs=0.03)
        assert found.rest == pytest.approx(sum(parts[CHANNELS:]), abs=0.03)
        assert found.share == pytest.approx(abs(found.last) / (abs(found.last) + abs(found.rest)))


def test_with_a_linear_head_the_parts_and_a_constant_are_the_whole_evidence() -> None:
    head, features, feature_map = case(None)
    nothing = evidence(head, np.zeros_like(features), 1)
    found = explain(head, CLASSES, features, feature_map, "b")
    assert found.last + found.rest + nothing == pytest.approx(found.evidence, abs=1e-4)


def test_by_default_the_most_probable_class_is_explained_and_a_strange_one_is_refused() -> None:
    head, features, feature_map = case(None)
    best = CLASSES[int(head.logits(features[None]).argmax())]
    assert explain(head, CLASSES, features, feature_map).label == best
    with pytest.raises(InputError, match="no class 'z'"):
        explain(head, CLASSES, features, feature_map, "z")


def test_features_that_are_no_averages_of_the_map_are_refused() -> None:
    head, features, feature_map = case(None)
    with pytest.raises(InputError, match="not averages"):
        explain(head, CLASSES, features * 1.5, feature_map)


def test_the_picture_is_brightest_where_the_evidence_is_and_grey_where_there_is_none() -> None:
    weight = np.array([[1.0], [-1.0]], np.float32)
    head = HeadLayers(np.zeros(1, np.float32), np.ones(1, np.float32), ((weight, np.zeros(2, np.float32)),))
    feature_map = np.zeros((1, 4, 4), np.float32)
    feature_map[0, 3, 0] = 16
    found = explain(head, ("yes", "no"), np.ones(1, np.float32), feature_map)
    assert found.label == "yes"
    assert found.share == 1.0
    pixels = np.asarray(Image.open(io.BytesIO(picture(found, np.zeros((80, 80, 3), np.uint8)))), int)
    assert pixels.shape == (80, 80, 3)
    assert pixels[70, 10].sum() > pixels[10, 70].sum() + 200
    assert len(set(pixels[10, 70])) == 1
