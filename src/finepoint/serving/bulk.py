"""The bodies of `/invocations/batch`: many images in one request, each with a name, as JSON lines or multipart."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass

from finepoint.errors import RequestError
from finepoint.models.answers import check_parts

MAX_IMAGES = 512
JSON_LINES = ("application/jsonlines", "application/x-jsonlines", "application/jsonl", "application/x-ndjson")


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image of a batch: its bytes, or the reason why there are none."""

    name: str
    data: bytes
    mistake: str = ""


def read_batch(body: bytes, content_type: str) -> list[NamedImage]:
    """Return the images of a batch, in their order.

    JSON lines are `{"image": BASE64, "name": "a.jpg"}`; in `multipart/form-data` every part is an image
    file. Names default to the image's number.

    Raises:
        RequestError: the body is neither (415), damaged (400), or holds more than 512 images (413).
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind in JSON_LINES:
        check_parts(body)
        lines = [line for line in body.split(b"\n") if line.strip()]
        _check_count(len(lines))
        return [_from_line(line, number) for number, line in enumerate(lines)]
    if kind == "multipart/form-data":
        return _from_multipart(body, content_type)
    raise RequestError(
        f"content type {kind or 'none'!r} is not understood here; send application/jsonlines or multipart/form-data",
        415,
    )


def _from_line(line: bytes, number: int) -> NamedImage:
    name = str(number)
    try:
        value = json.loads(line)
        if not isinstance(value, dict) or not isinstance(value.get("image"), str):
            return NamedImage(name, b"", 'the line is not {"image": BASE64}')
        # Half a surrogate pair is valid in JSON, and cannot be sent back.
        name = str(value.get("name", name)).encode(errors="replace").decode()
        return NamedImage(name, base64.b64decode(value["image"], validate=True))
    except (binascii.Error, RecursionError, ValueError):
        return NamedImage(name, b"", "the line is not valid JSON with a valid base64 image")


def _from_multipart(body: bytes, content_type: str) -> list[NamedImage]:
    """Read RFC 7578's form; the body is in memory whole, so that splitting it is all there is to do."""
    found = re.search(r'boundary=(?:"([^"\r\n]{1,70})"|([^;\s"]{1,70}))', content_type, re.IGNORECASE)
    if found is None:
        raise RequestError("multipart/form-data needs a boundary", 400)
    boundary = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    # One more than may be, so that a body of a million empty parts costs nothing.
    parts = (b"\r\n" + body).split(boundary, MAX_IMAGES + 2)
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        if len(parts) > MAX_IMAGES:
            _check_count(len(parts))
        raise RequestError("the multipart body is cut off, or its boundary is another one", 400)
    _check_count(len(parts) - 2)
    return [_from_part(part, number) for number, part in enumerate(parts[1:-1])]


def _from_part(part: bytes, number: int) -> NamedImage:
    head, empty_line, data = part.partition(b"\r\n\r\n")
    if not empty_line:
        return NamedImage(str(number), b"", "the part has no empty line after its headers")
    found = re.search(rb'filename="([^"\r\n]{1,500})"', head)
    return NamedImage(found[1].decode(errors="replace") if found else str(number), data)


def _check_count(count: int) -> None:
    if count == 0:
        raise RequestError("the body holds no image", 400)
    if count > MAX_IMAGES:
        raise RequestError(f"more than {MAX_IMAGES} images in one request; send several requests", 413)
