"""What an endpoint is sent and what it answers, shared by our server and by the handler for other containers.

A request is an image file (`image/jpeg`, `image/png`, `image/webp`, ...), or JSON: `{"image": BASE64}` or
`{"images": [BASE64, ...]}`. The answer is JSON::

    {"label": "hat", "probability": 0.97, "probabilities": {"hat": 0.97, ...}, "model_version": "1f3a..."}

and for `images`: `{"predictions": [{"label": ...}, ...], "model_version": ...}`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from finepoint.errors import RequestError
from finepoint.models.classifier import Prediction

IMAGE_TYPES = frozenset(
    {
        "image/jpeg",
        "image/jpg",
        "image/png",
        "image/webp",
        "image/bmp",
        "image/gif",
        "image/tiff",
        "image/heic",
        "image/heif",
        "application/x-image",
        "application/octet-stream",
    }
)
MAX_IMAGES = 64
_MAX_PARTS = 10_000


def read_images(body: bytes, content_type: str) -> list[bytes]:
    """Return the image files in a request's body.

    Args:
        body: as received.
        content_type: an image type, or `application/json`; parameters after `;` are ignored.

    Raises:
        RequestError: the type is not one of ours (415), or the body is not what it should be (400).
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind in IMAGE_TYPES:
        if not body:
            raise RequestError("the body is empty; send an image file", 400)
        return [body]
    if kind == "application/json":
        return _from_json(body)
    raise RequestError(
        f"content type {kind or 'none'!r} is not understood; send image/jpeg, image/png, image/webp, "
        "or application/json with a base64 image",
        415,
    )


def is_single(body: bytes, content_type: str) -> bool:
    """Return whether a request that `read_images` accepted asks about one image rather than a list.

    >>> is_single(b"...", "image/jpeg")
    True
    """
    if content_type.split(";")[0].strip().lower() != "application/json":
        return True
    return "image" in json.loads(body)


def answer(
    predictions: Sequence[Prediction], model_version: str, random_weights: bool = False, *, single: bool = False
) -> dict[str, Any]:
    """Return the JSON object that answers a request.

    Args:
        predictions: for each image.
        model_version: of the package.
        random_weights: said in the answer where a backbone was never trained.
        single: the request was about one image: its prediction is not wrapped in a list.
    """
    rows = [_row(prediction) for prediction in predictions]
    result: dict[str, Any] = {**rows[0]} if single else {"predictions": rows}
    result["model_version"] = model_version
    if random_weights:
        result["warning"] = "the backbone's weights are random; this answer means little"
    return result


def _row(prediction: Prediction) -> dict[str, Any]:
    names = ("label", "probability", "probabilities", "unknown", "unknown_score", "unknown_threshold")
    return {name: value for name in names if (value := getattr(prediction, name)) is not None}


def check_parts(body: bytes) -> None:
    """Refuse JSON of more values than requests about images have, before reading it holds up all others.

    Raises:
        RequestError: it is such.
    """
    if sum(body.count(mark) for mark in (b",", b"[", b"{", b"\n")) > _MAX_PARTS:
        raise RequestError(f"the JSON has more than {_MAX_PARTS:,} values or lines; send images as base64", 400)


def _from_json(body: bytes) -> list[bytes]:
    check_parts(body)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("the body is not valid JSON", 400) from None
    if not isinstance(value, dict) or ("image" in value) == ("images" in value):
        raise RequestError('the JSON must be {"image": BASE64} or {"images": [BASE64, ...]}', 400)
    encoded = [value["image"]] if "image" in value else value["images"]
    if not isinstance(encoded, list) or not encoded:
        raise RequestError('"images" must be a list of base64 strings, with at least one in it', 400)
    if len(encoded) > MAX_IMAGES:
        raise RequestError(f"{len(encoded)} images in one request; at most {MAX_IMAGES} are taken", 413)
    return [_decoded(text, number) for number, text in enumerate(encoded)]


def _decoded(text: object, number: int) -> bytes:
    if not isinstance(text, str):
        raise RequestError(f"image {number} is not a base64 string", 400)
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"image {number} is not valid base64", 400) from None
    if not data:
        raise RequestError(f"image {number} is empty", 400)
    return data
