from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from finepoint.data.decoding import decode, probe
from finepoint.errors import DecodeError

PICTURE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow(subsampling: int, progressive: bool) -> None:
    smooth = Image.fromarray(PICTURE).resize((300, 200), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", subsampling=subsampling, progressive=progressive)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_photographs_equal_pillow(clothing: Path) -> None:
    for path in sorted(clothing.glob("valid/*/*.jpg"))[::7]:
        upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        assert np.array_equal(decode(path.read_bytes()), np.asarray(upright)), path


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(PICTURE), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode(data), np.asarray(expected))


def test_a_jpeg_is_decoded_at_the_smallest_scale_that_keeps_the_shorter_side() -> None:
    data = encoded(Image.new("RGB", (1600, 1200)), "JPEG")
    assert decode(data, min_side=300).shape == (300, 400, 3)
    assert decode(data, min_side=301).shape == (450, 600, 3)
    assert decode(data, min_side=5000).shape == (1200, 1600, 3)
    assert decode(data).shape == (1200, 1600, 3)


def test_transparency_is_laid_over_white() -> None:
    layer = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    layer.putpixel((1, 0), (255, 0, 0, 255))
    assert decode(encoded(layer, "PNG")).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_sixteen_bits_keep_the_upper_eight() -> None:
    values = np.array([[0, 256, 65535]], np.uint16)
    assert decode(encoded(Image.fromarray(values), "PNG"))[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = {"CMYK": "JPEG"}.get(mode, "PNG")
    decoded = decode(encoded(Image.fromarray(PICTURE).convert(mode), kind))
    assert decoded.shape == PICTURE.shape
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats(kind: str) -> None:
    assert decode(encoded(Image.fromarray(PICTURE), kind)).shape == PICTURE.shape


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (30_000, 1), (1, 30_000)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    for kind in ("PNG", "JPEG"):
        assert decode(encoded(Image.new("RGB", size), kind)).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (b"<svg xmlns='x'></svg>", "SVG"),
        (b"%PDF-1.4", "PDF"),
        (b"\xff\xd8\xff\xe0garbage", "damaged|not an image"),
        (encoded(Image.fromarray(PICTURE), "JPEG")[:-200], "cut off"),
        (encoded(Image.fromarray(PICTURE), "PNG")[:-300], "cut off|damaged"),
    ],
)
def test_unusable_files_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data)


def test_large_images_are_refused_before_they_are_decoded() -> None:
    for kind in ("PNG", "JPEG"):
        with pytest.raises(DecodeError, match="too large: 2000 x 1000"):
            decode(encoded(Image.new("L", (2000, 1000)), kind), max_pixels=1_000_000)


def test_probe_reads_only_the_header() -> None:
    assert probe(encoded(Image.fromarray(PICTURE), "PNG")) == ("PNG", 53, 37)


@pytest.mark.parametrize("seed", range(200))
def test_mutated_files_never_raise_anything_else(seed: int) -> None:
    generator = np.random.default_rng(seed)
    kind = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"][seed % 6]
    data = bytearray(encoded(Image.fromarray(PICTURE), kind))
    for _ in range(8):
        data[int(generator.integers(len(data)))] = int(generator.integers(256))
    try:
        assert decode(bytes(data), max_pixels=1_000_000).ndim == 3
    except DecodeError as error:
        assert str(error)


def test_heic_is_read_where_its_extra_is_installed_and_else_the_message_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    red = Image.new("RGB", (64, 48), (200, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    pillow_heif.from_pillow(red).save(stream, quality=90, exif=exif.tobytes())
    data = stream.getvalue()
    pixels = decode(data)
    assert pixels.shape == (64, 48, 3)  # upright
    assert np.abs(pixels.astype(int) - (200, 10, 10)).max() < 10
    for length in (20, 200, len(data) - 10):
        with pytest.raises(DecodeError, match=r"damaged or cut off|cut off or damaged"):
            decode(data[:length])
    with pytest.raises(DecodeError, match=r"too large: (48 x 64|64 x 48)"):
        decode(data, max_pixels=1000)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DecodeError, match=r"pip install finepoint\[heic\]"):
        decode(data)
