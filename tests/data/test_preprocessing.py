from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finepoint.data.loading import load_batches
from finepoint.data.preprocessing import Preprocessing, preprocess

SQUARE = Preprocessing(224, 224, 256, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def photograph(width: int, height: int) -> np.ndarray:
    small = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(533, 400), (400, 533), (1000, 300), (256, 256), (90, 60)])
def test_the_box_gives_what_resizing_and_cropping_gives(size: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    rgb = photograph(*size)
    customary = v2.Compose(
        [v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(224)]
    )
    expected = np.asarray(customary(Image.fromarray(rgb))).astype(int)
    # The customary way rounds the resized width to whole pixels before it crops; ours does not.
    assert np.abs(SQUARE.apply(rgb).astype(int) - expected).mean() < 1.5


def test_a_resize_without_crop_is_pillows_own() -> None:
    whole = Preprocessing(64, 64, 64, "bilinear", (0, 0, 0), (1, 1, 1))
    rgb = photograph(128, 128)
    expected = np.asarray(Image.fromarray(rgb).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.array_equal(whole.apply(rgb), expected)


def test_a_crop_larger_than_the_shorter_side_stays_inside_the_image() -> None:
    wide = Preprocessing(224, 224, 200, "bicubic", (0, 0, 0), (1, 1, 1))
    assert wide.apply(photograph(300, 200)).shape == (224, 224, 3)


def test_normalised_by_hand() -> None:
    crop = np.full((1, 1, 3), 255, np.uint8)
    values = SQUARE.normalised(crop)
    assert values.shape == (3, 1, 1)
    np.testing.assert_allclose(values.ravel(), [2.5, 3.0, 3.5], rtol=1e-6)


def test_the_description_survives_json() -> None:
    assert Preprocessing.from_json(SQUARE.to_json()) == SQUARE


def test_batches_come_in_order_with_the_failures_named(tmp_path: Path) -> None:
    paths = []
    for number in range(20):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (30, 30), (number, 0, 0)).save(path)
        paths.append(path)
    paths[7].write_bytes(b"no image")
    paths[11].unlink()
    small = Preprocessing(8, 8, 8, "bilinear", (0, 0, 0), (1, 1, 1))
    batches = list(load_batches(paths, [small], batch_size=6, workers=3, prefetch=1))
    assert [index for batch in batches for index in batch.indices] == [n for n in range(20) if n not in (7, 11)]
    assert [index for batch in batches for index, _ in batch.failures] == [7, 11]
    reds = np.concatenate([batch.crops[0] for batch in batches])[:, 0, 0, 0]
    assert reds.tolist() == [n for n in range(20) if n not in (7, 11)]


def test_several_backbones_get_the_crops_that_each_would_get_alone() -> None:
    stream = io.BytesIO()
    Image.fromarray(photograph(2400, 1800)).save(stream, "JPEG")
    other = Preprocessing(64, 64, 72, "bilinear", (0, 0, 0), (1, 1, 1))
    together = preprocess(stream.getvalue(), [SQUARE, other])
    for crop, alone in zip(together, (SQUARE, other), strict=True):
        assert np.array_equal(crop, preprocess(stream.getvalue(), [alone])[0])
