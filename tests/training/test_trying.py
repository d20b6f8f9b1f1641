from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import write_images

from finepoint.data.finding import find_images
from finepoint.files import sha256_of
from finepoint.models.backbones import Backbone, resolve_backbones
from finepoint.models.choice import Choice
from finepoint.training.features import ImageFile, embed
from finepoint.training.trying import Way, _Costs, try_features

CHOICE = Choice("openvino", "f32", "", {"openvino/f32": 50.0, "onnxruntime/f32": 25.0})


@pytest.fixture
def backbone(own_cache: Path) -> Backbone:
    return resolve_backbones(["efficientnet_lite0"])[0]


def test_each_change_is_measured_and_its_output_compared(tmp_path: Path, backbone: Backbone) -> None:
    found = find_images(write_images(tmp_path / "images", 8))
    images = [ImageFile(found.root / image.path, sha256_of(found.root / image.path)) for image in found.images]
    rows = {row.name: row for row in try_features(images, backbone, CHOICE)}
    assert rows["as it is"].measured == 1.0
    assert rows["batch=32"].output == "equal"
    assert rows["decoding threads=1"].predicted is not None
    assert rows["cached features"].output == "they are no longer in the cache"
    embed(images, backbone, CHOICE)
    again = {row.name: row for row in try_features(images, backbone, CHOICE)}["cached features"]
    assert again.output == "equal"
    assert again.measured is not None
    assert again.measured > 2


def test_a_window_lasts_as_long_as_the_slowest_of_decoding_inference_and_both_on_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("finepoint.training.trying.cores", lambda: 4)
    other = Choice("onnxruntime", "f32", "", {})
    costs = _Costs(decode=8.0, infer=1.0, faster={"openvino/f32": 1.0, "onnxruntime/f32": 0.5})
    assert costs.seconds(Way(1, 8, CHOICE)) == 8.0  # one thread decodes, the cores wait
    assert costs.seconds(Way(4, 8, CHOICE)) == 3.0  # two seconds of decoding on each core, and the inference
    assert costs.seconds(Way(4, 8, other)) == 4.0
    assert costs.seconds(Way(4, 8, Choice("cuda", "f32", "", {}))) is None
