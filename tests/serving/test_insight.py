"""Heat maps and unknown images over HTTP, with a model whose answers can be worked out by hand."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from tests.serving.conftest import Reddest, Served, picture, serving

from finepoint.evaluation.unknown import fit_unknown, with_threshold
from finepoint.models.graphs import HeadLayers
from finepoint.models.similar import SimilarImages
from finepoint.serving.insight import Insight

_WEIGHT = np.array([[1, -1, -1], [-1, 1, 1]], np.float32)


class Seeing(Reddest):
    """Averages colours over a map of 8 by 8 places."""

    def compute(self, crops: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        places = crops[0].transpose(0, 3, 1, 2).astype(np.float32) / 255
        features = places.mean(axis=(2, 3))
        values = {"feature_map": places, "features": features, "logits": features @ _WEIGHT.T}
        return {name: values[name] for name in outputs}


def insight() -> Insight:
    generator = np.random.default_rng(0)
    reds = np.array([0.9, 0.1, 0.1]) + generator.normal(0, 0.05, (60, 3))
    greens = np.array([0.1, 0.9, 0.1]) + generator.normal(0, 0.05, (60, 3))
    features = np.concatenate([reds, greens]).astype(np.float32)
    valid = features[1::2]
    detector = with_threshold(fit_unknown(features[::2]), valid, valid @ _WEIGHT.T)
    head = HeadLayers(np.zeros(3, np.float32), np.ones(3, np.float32), ((_WEIGHT, np.zeros(2, np.float32)),))
    return Insight(Seeing.classes, detector, head, "feature_map")


@pytest.fixture(scope="module")
def seeing() -> Iterator[Served]:
    with serving(Seeing(), insight=insight()) as running:
        yield running


def half_red() -> bytes:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:, 0] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_heat_map_is_a_png_of_what_speaks_for_the_top_class_or_a_named_one(seeing: Served) -> None:
    answer = seeing.ask(half_red(), "image/png", "/invocations?explain=true")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-finepoint-explained-class"] == "red"
    assert answer.headers["x-finepoint-explained-share"] == "1.0000"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)), int)
    assert pixels[4, 7].sum() > pixels[4, 0].sum()
    other = seeing.ask(half_red(), "image/png", "/invocations?explain=true&class=not%20%3Cred%3E", Accept="image/png")
    assert unquote(other.headers["x-finepoint-explained-class"]) == "not <red>"


def test_a_heat_map_within_json(seeing: Served) -> None:
    path = "/invocations?explain=true&top=1"
    value = seeing.ask(half_red(), "image/png", path, Accept="application/json").json()
    assert value["label"] == "red"
    kind, _, data = value["explanation"]["image"].partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 8)
    body = json.dumps({"images": [base64.b64encode(half_red()).decode()] * 2}).encode()
    rows = seeing.ask(body, "application/json", path, Accept="application/json").json()["predictions"]
    assert [row["explanation"]["label"] for row in rows] == ["red", "red"]


@pytest.mark.parametrize(
    ("query", "accept", "status", "words"),
    [
        ("explain=1", "*/*", 400, "true or false"),
        ("explain=true&class=blue", "*/*", 400, "no class 'blue'"),
        ("explain=true", "text/csv", 400, "JSON answers"),
        ("explain=true", "text/html", 406, "cannot answer"),
    ],
)
def test_explanations_that_cannot_be_given_are_refused(
    seeing: Served, query: str, accept: str, status: int, words: str
) -> None:
    answer = seeing.ask(half_red(), "image/png", f"/invocations?{query}", Accept=accept)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_a_model_without_a_map_and_several_images_have_no_picture(served: Served, seeing: Served) -> None:
    assert "no feature map" in served.ask(half_red(), "image/png", "/invocations?explain=true").text
    body = json.dumps({"images": [base64.b64encode(half_red()).decode()] * 2}).encode()
    assert seeing.ask(body, "application/json", "/invocations?explain=true").status_code == 406
    line = json.dumps({"image": base64.b64encode(half_red()).decode()}).encode()
    batch = seeing.ask(line, "application/jsonlines", "/invocations/batch?explain=true")
    assert batch.status_code == 400


def test_an_answer_says_whether_the_image_is_of_any_class(seeing: Served, served: Served) -> None:
    known = seeing.ask(picture((230, 25, 25)), "image/png").json()
    assert known["unknown"] is False
    assert known["unknown_score"] <= known["unknown_threshold"]
    strange = seeing.ask(picture((20, 20, 250)), "image/png").json()
    assert strange["unknown"] is True
    assert strange["unknown_score"] > strange["unknown_threshold"]
    assert "unknown" not in served.ask(picture((20, 20, 250)), "image/png").json()


def test_the_likest_training_images_come_with_an_answer_that_asks_for_them() -> None:
    known = insight()
    assert known.unknown is not None
    middles = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.2, 0.9]], np.float32)
    pictures = [picture((230, 25, 25), "JPEG"), picture((25, 230, 25), "JPEG"), picture((25, 25, 230), "JPEG")]
    similar = SimilarImages(known.unknown.coordinates(middles), np.array([0, 1, 1], np.int32), pictures)
    with serving(Seeing(), insight=replace(known, similar=similar)) as served:
        likest = served.ask(picture((25, 240, 25)), "image/png", "/invocations?similar=true").json()["similar"]
    assert likest[0]["label"] == "not <red>"
    assert base64.b64decode(likest[0]["image"].partition(",")[2]) == pictures[1]
    assert {one["label"] for one in likest} == {"red", "not <red>"}
