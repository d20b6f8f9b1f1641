"""Image files to RGB arrays: one way, for training, evaluation, prediction and serving."""

from __future__ import annotations

import importlib.util
import io
import struct
import warnings
import zlib

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from finepoint.errors import DecodeError

MAX_PIXELS = 100_000_000
# What simplejpeg raises for files that it cannot read, hostile ones included.
_JPEG_ERRORS = (ValueError, KeyError, RuntimeError, OverflowError)
# What Pillow's plugins raise for damaged files, hostile ones included.
_PILLOW_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)
_EXIF_ORIENTATION = 0x0112
# The scales that a JPEG can be decoded at for less than the price of the whole, largest first.
_JPEG_SCALES = (8, 7, 6, 5, 4, 3, 2, 1)
# Formats worth opening: what people photograph, scan, export. Others (PSD, EPS, FITS, ...) widen what hostile
# files can reach.
_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "DIB",
    "GIF",
    "TIFF",
    "PPM",
    "JPEG2000",
    "ICO",
    "TGA",
    "AVIF",
)
# An ISO file's first box with the brands of HEIF images coded as HEVC, and of images of any coding.
_HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"))


_SIGNS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"BM", "image/bmp"))


def content_type(data: bytes) -> str:
    """Return the content type of an image file's bytes, by how they begin.

    >>> content_type(b"GIF89a")
    'image/gif'
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for sign, kind in _SIGNS if data.startswith(sign)), "application/octet-stream")


def decode(data: bytes, *, min_side: int = 0, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an image file's bytes as RGB, uint8 [height, width, 3], upright.

    The EXIF orientation is applied; transparency is laid over white; CMYK, grey, palette and 16-bit images
    are converted; of an animation the first frame is taken.

    Args:
        data: the file's content.
        min_side: a JPEG may be decoded at a reduced scale as long as its shorter side keeps so many pixels;
            0 decodes at full size.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        DecodeError: it is empty, cut off, too large, or no image that we read.
    """
    if not data:
        raise DecodeError("the file is empty")
    if data[:3] == b"\xff\xd8\xff":
        decoded = _decode_jpeg(data, min_side, max_pixels)
        if decoded is not None:
            return decoded
    return _decode_with_pillow(data, max_pixels)


def probe(data: bytes) -> tuple[str, int, int]:
    """Return format, width and height in pixels (as stored) without decoding.

    Raises:
        DecodeError: it is no image that we read.
    """
    with _open(data) as image:
        return str(image.format), image.width, image.height


def _decode_jpeg(data: bytes, min_side: int, max_pixels: int) -> np.ndarray | None:
    """Decode an ordinary JPEG; return None for one that is better left to Pillow."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except _JPEG_ERRORS:
        return None
    _check_pixels(width, height, max_pixels)
    if colorspace not in ("YCbCr", "RGB"):
        return None
    try:
        scale = _scale_for(min(height, width), min_side)
        # simplejpeg takes the smallest scale that gives at least these sides.
        pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="RGB",
            min_height=_scaled(height, scale) if scale < 8 else 0,
            min_width=_scaled(width, scale) if scale < 8 else 0,
        )
    except _JPEG_ERRORS:
        # Damaged, or only odd: Pillow decides, and says why.
        return None
    orientation = _jpeg_orientation(data)
    return pixels if orientation == 1 else np.ascontiguousarray(_turn(pixels, orientation))


def _scale_for(side: int, min_side: int) -> int:
    """Return the smallest scale in eighths that keeps `side` at `min_side` pixels; 8 if none does."""
    if min_side <= 0:
        return 8
    return min((scale for scale in _JPEG_SCALES if _scaled(side, scale) >= min_side), default=8)


def _scaled(side: int, scale: int) -> int:
    return (side * scale + 7) // 8  # as libjpeg rounds


def _jpeg_orientation(data: bytes) -> int:
    # Looking for the marker is far cheaper than opening the file with Pillow, and most files have none.
    if b"Exif\0\0" not in data[:131_072]:
        return 1
    try:
        with _open(data) as image:
            return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (DecodeError, ValueError, TypeError, OSError, SyntaxError, KeyError):
        return 1  # a damaged EXIF block says nothing


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the stored pixels as they are to be looked at, for EXIF orientation 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    with _open(data) as image:
        _check_pixels(image.width, image.height, max_pixels)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.load()
                upright = _upright(image)
                return np.asarray(_to_rgb(upright))
        except _PILLOW_ERRORS as error:
            raise DecodeError(_what_went_wrong(error)) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (ValueError, TypeError, OSError, SyntaxError, KeyError):
        return image  # a damaged EXIF block says nothing


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images at a limit of its own; ours is checked by the caller.
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=(*_FORMATS, "HEIF") if _reads_heic(data) else _FORMATS)
    except UnidentifiedImageError as error:
        raise DecodeError(_what_it_is(data)) from error
    except Image.DecompressionBombError as error:
        raise DecodeError(f"the image is too large: at most {MAX_PIXELS:,} pixels are read") from error
    except _PILLOW_ERRORS as error:
        raise DecodeError(_what_went_wrong(error)) from error


def _reads_heic(data: bytes) -> bool:
    """Return whether this is a HEIC photograph and the extra that reads it is installed; Pillow then knows it."""
    if data[4:12] not in _HEIC:
        return False
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        # Pillow clips 16 bits to 8; we keep the upper eight.
        values = np.asarray(image).astype(np.int64)
        high = np.clip(values >> 8 if values.max(initial=0) > 255 else values, 0, 255).astype(np.uint8)
        return Image.fromarray(high).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        low, high_value = float(values.min(initial=0)), float(values.max(initial=0))
        scaled = (values - low) / (high_value - low or 1) * 255
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(f"the image is too large: {width} x {height} pixels, at most {max_pixels:,} are read")


def _what_went_wrong(error: Exception) -> str:
    reason = str(error)
    if any(word in reason.lower() for word in ("truncated", "broken data stream", "unexpected end")):
        return f"the file is cut off or damaged ({reason})"
    return f"the image is damaged ({reason})"


def _what_it_is(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    for sign, name in (
        (b"<svg", "an SVG drawing"),
        (b"<?xml", "an XML file"),
        (b"<!doctype html", "an HTML page"),
        (b"<html", "an HTML page"),
        (b"%pdf", "a PDF"),
        (b"pk\x03\x04", "a zip archive"),
    ):
        if start.startswith(sign):
            return f"the file is {name}, not an image that can be read"
    if data[4:12] in _HEIC:
        if importlib.util.find_spec("pillow_heif"):
            return "the file is a HEIC photograph that is damaged or cut off"
        return "the file is a HEIC photograph; `pip install finepoint[heic]` reads those, or export it as JPEG"
    return "the file is not an image that can be read"
