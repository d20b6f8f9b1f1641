"""The forms of an answer, and choosing one by the request's `Accept`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finepoint.errors import RequestError
from finepoint.serving.messages import JSON

LINES, CSV, NPY = "application/jsonlines", "text/csv", "application/x-npy"
PNG = "image/png"
_KNOWN = {
    JSON: JSON,
    "application/*": JSON,
    "*/*": JSON,
    LINES: LINES,
    "application/x-jsonlines": LINES,
    "application/x-ndjson": LINES,
    "application/jsonl": LINES,
    CSV: CSV,
    "text/*": CSV,
    NPY: NPY,
}


def chosen(accept: str, default: str = JSON) -> str:
    """Return the form that an `Accept` header asks for: the first that we have; weights (`q=`) are ignored.

    Raises:
        RequestError: we have none of them (406).

    >>> chosen("text/html, text/csv;q=0.9")
    'text/csv'
    """
    wanted = [part.split(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    if not wanted or wanted == ["*/*"]:
        return default
    for kind in wanted:
        if kind in _KNOWN:
            return _KNOWN[kind]
    raise RequestError(f"cannot answer as {accept[:200]!r}; ask for {JSON}, {LINES}, {CSV} or {NPY}", 406)


def json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a line of JSON for each row."""
    return b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)


def table(classes: Sequence[str], names: Sequence[str], probabilities: np.ndarray) -> bytes:
    """Return CSV: a header, then `name,label,probability,` and the probability of each class for each image.

    >>> table(["cat", "dog"], ["a"], np.array([[0.25, 0.75]])).decode().splitlines()
    ['name,label,probability,cat,dog', 'a,dog,0.75,0.25,0.75']
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["name", "label", "probability", *classes])
    for name, row in zip(names, probabilities, strict=True):
        best = int(row.argmax())
        writer.writerow([name, classes[best], repr(float(row[best])), *(repr(float(value)) for value in row)])
    return stream.getvalue().encode(errors="replace")


def array(probabilities: np.ndarray) -> bytes:
    """Return probabilities [n, classes] as a float64 `.npy` file, classes in the order of `/metadata`."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(probabilities, np.float64), allow_pickle=False)
    return stream.getvalue()
