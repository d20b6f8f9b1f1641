from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import write_images

from finepoint.data.finding import find_images
from finepoint.files import cache_dir, sha256_of
from finepoint.models.backbones import Backbone, resolve_backbones
from finepoint.models.choice import Choice, candidates, choose_runtime
from finepoint.training.features import FeatureCache, ImageFile, embed

CHOICE = Choice("openvino", "f32", "", {})


@pytest.fixture
def backbone(own_cache: Path) -> Backbone:
    return resolve_backbones(["efficientnet_lite0"])[0]


def files(folder: Path) -> list[ImageFile]:
    found = find_images(folder)
    return [ImageFile(found.root / image.path, sha256_of(found.root / image.path)) for image in found.images]


def test_adding_ten_images_embeds_ten_and_a_changed_pixel_one(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_images(tmp_path / "images", 10)
    first = embed(files(folder), backbone, CHOICE)
    assert (first.images_embedded, first.images_from_cache) == (30, 0)
    again = embed(files(folder), backbone, CHOICE)
    assert (again.images_embedded, again.images_from_cache) == (0, 30)
    np.testing.assert_array_equal(first.features, again.features)
    write_images(folder, 10, seed=5, classes=("red",))
    assert embed(files(folder), backbone, CHOICE).images_embedded == 10
    path = folder / "red" / "0-000.png"
    from PIL import Image

    picture = Image.open(path)
    picture.putpixel((3, 3), (0, 0, 0))
    picture.save(path)
    changed = embed(files(folder), backbone, CHOICE)
    assert (changed.images_embedded, changed.images_from_cache) == (1, 39)


def test_features_are_those_of_the_image_whatever_the_batch(tmp_path: Path, backbone: Backbone) -> None:
    images = files(write_images(tmp_path / "images", 7))
    together = embed(images, backbone, CHOICE).features
    shutil.rmtree(cache_dir() / "features")
    alone = np.concatenate([embed([image], backbone, CHOICE).features for image in images])
    np.testing.assert_array_equal(together, alone)


def test_unreadable_images_are_named_and_the_rest_goes_on(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_images(tmp_path / "images", 4)
    images = files(folder)
    images[2].path.write_bytes(b"gone wrong")
    images[5].path.unlink()
    done = embed(images, backbone, CHOICE)
    assert set(done.failures) == {2, 5}
    assert done.images_embedded == 10
    assert not done.features[[2, 5]].any()
    assert done.features[[0, 1, 3, 4]].any(axis=1).all()


def test_a_damaged_segment_costs_only_its_rows(tmp_path: Path, backbone: Backbone) -> None:
    images = files(write_images(tmp_path / "images", 6))
    embed(images[:9], backbone, CHOICE)
    embed(images, backbone, CHOICE)
    segments = sorted((cache_dir() / "features").glob("*/*.safetensors"))
    assert len(segments) == 2
    segments[0].write_bytes(segments[0].read_bytes()[:50])
    assert embed(images, backbone, CHOICE).images_embedded == 9


def _embed_folder(folder: Path, queue: multiprocessing.Queue[int]) -> None:
    (backbone,) = resolve_backbones(["efficientnet_lite0"])
    queue.put(embed(files(folder), backbone, CHOICE).images_embedded)


def test_two_processes_share_a_cache_and_compute_nothing_twice(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_images(tmp_path / "images", 30)
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_embed_folder, args=(folder, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    counts = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert sorted(counts) == [0, 90]


def _embed_until_killed(folder: Path) -> None:
    from finepoint.training import features

    features._ROWS = 8

    def kill(done: int, _total: int) -> None:
        if done >= 48:
            os.kill(os.getpid(), signal.SIGKILL)

    (backbone,) = resolve_backbones(["efficientnet_lite0"])
    embed(files(folder), backbone, CHOICE, progress=kill)


def test_a_killed_pass_leaves_the_cache_valid(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_images(tmp_path / "images", 30)
    worker = multiprocessing.get_context("spawn").Process(target=_embed_until_killed, args=(folder,))
    worker.start()
    worker.join(timeout=120)
    assert worker.exitcode == -signal.SIGKILL
    done = embed(files(folder), backbone, CHOICE)
    assert done.images_from_cache >= 32
    assert done.images_embedded + done.images_from_cache == 90
    assert done.features.any(axis=1).all()


def test_the_runtime_is_the_one_measured_fastest_and_is_remembered(
    backbone: Backbone, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finepoint.models import choice

    (own_cache / "machine").unlink()

    speeds = {"openvino": 100.0, "onnxruntime": 150.0}
    monkeypatch.setattr(choice, "candidates", lambda: ["openvino/f32", "onnxruntime/f32"])
    monkeypatch.setattr(choice, "images_per_second", lambda runtime, _backbone: speeds[runtime.name])
    assert choose_runtime(backbone).runtime == "onnxruntime"
    speeds["openvino"] = 1000.0
    assert choose_runtime(backbone).runtime == "onnxruntime"  # as measured before
    assert choose_runtime(backbone, runtime="openvino").reason == "asked for"


def test_a_challenger_must_be_clearly_faster(
    backbone: Backbone, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finepoint.models import choice

    (own_cache / "machine").unlink()

    speeds = {"openvino": 100.0, "onnxruntime": 120.0}
    monkeypatch.setattr(choice, "candidates", lambda: ["openvino/f32", "onnxruntime/f32"])
    monkeypatch.setattr(choice, "images_per_second", lambda runtime, _backbone: speeds[runtime.name])
    assert choose_runtime(backbone).runtime == "openvino"


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_is_a_candidate_only_where_the_cpu_has_it(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finepoint.models.choice.cpu_has_bf16", lambda: has_bf16)
    assert ("openvino/bf16" in candidates()) == has_bf16


def test_the_cache_reads_what_another_process_added(tmp_path: Path) -> None:
    first, second = FeatureCache(tmp_path), FeatureCache(tmp_path)
    key = "ab" * 32
    first.add([key], np.ones((1, 4), np.float32))
    assert key not in second
    second.refresh()
    assert second.read([key]).tolist() == [[1, 1, 1, 1]]
