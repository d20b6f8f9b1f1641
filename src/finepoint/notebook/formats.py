"""Serializers and deserializers: what a predictor sends and how it reads the answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


class IdentitySerializer:
    """Sends bytes as they are, a path's content, or text."""

    def __init__(self, content_type: str = "application/octet-stream") -> None:
        self.CONTENT_TYPE = content_type

    def serialize(self, data: Any) -> bytes:
        """Return the bytes to send."""
        if isinstance(data, Path):
            return data.read_bytes()
        return data.encode() if isinstance(data, str) else bytes(data)


class JSONSerializer:
    """Sends JSON; arrays become lists.

    >>> JSONSerializer().serialize({"x": np.arange(2)})
    b'{"x": [0, 1]}'
    """

    CONTENT_TYPE = "application/json"

    def serialize(self, data: Any) -> bytes:
        """Return the bytes to send."""
        return json.dumps(data, default=_plain).encode()


class JSONLinesSerializer:
    """Sends a JSON value a line."""

    CONTENT_TYPE = "application/jsonlines"

    def serialize(self, data: Iterable[Any]) -> bytes:
        """Return the bytes to send."""
        return "\n".join(json.dumps(row, default=_plain) for row in data).encode()


class CSVSerializer:
    """Sends rows, or one row, as CSV."""

    CONTENT_TYPE = "text/csv"

    def serialize(self, data: Any) -> bytes:
        """Return the bytes to send."""
        if isinstance(data, str):
            return data.encode()
        nested = all(isinstance(row, list | tuple | np.ndarray) for row in data)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(data if nested else [data])
        return text.getvalue().rstrip("\n").encode()


class NumpySerializer:
    """Sends an array in NumPy's own format."""

    CONTENT_TYPE = "application/x-npy"

    def __init__(self, dtype: Any = None) -> None:
        self._dtype = dtype

    def serialize(self, data: Any) -> bytes:
        """Return the bytes to send."""
        content = io.BytesIO()
        np.save(content, np.asarray(data, self._dtype), allow_pickle=False)
        return content.getvalue()


class BytesDeserializer:
    """Returns the answer as it came."""

    ACCEPT = ("*/*",)

    def deserialize(self, content: bytes, content_type: str) -> Any:
        """Return what the answer says."""
        return content


class StringDeserializer:
    """Returns the answer as text."""

    ACCEPT = ("application/json",)

    def __init__(self, encoding: str = "UTF-8", accept: str = "application/json") -> None:
        self._encoding = encoding
        self.ACCEPT = (accept,)

    def deserialize(self, content: bytes, content_type: str) -> str:
        """Return what the answer says."""
        return content.decode(self._encoding)


class JSONDeserializer:
    """Returns the JSON value of the answer."""

    ACCEPT = ("application/json",)

    def deserialize(self, content: bytes, content_type: str) -> Any:
        """Return what the answer says."""
        return json.loads(content)


class JSONLinesDeserializer:
    """Returns the JSON value of each line of the answer."""

    ACCEPT = ("application/jsonlines",)

    def deserialize(self, content: bytes, content_type: str) -> list[Any]:
        """Return what the answer says."""
        return [json.loads(line) for line in content.splitlines() if line.strip()]


class CSVDeserializer:
    """Returns the rows of the answer, as text."""

    ACCEPT = ("text/csv",)

    def deserialize(self, content: bytes, content_type: str) -> list[list[str]]:
        """Return what the answer says."""
        return list(csv.reader(content.decode().splitlines()))


class NumpyDeserializer:
    """Returns the array of the answer; pickled objects in it are refused, unlike in the SDK."""

    ACCEPT = ("application/x-npy",)

    def deserialize(self, content: bytes, content_type: str) -> Any:
        """Return what the answer says."""
        if "json" in content_type:
            return np.asarray(json.loads(content))
        return np.load(io.BytesIO(content), allow_pickle=False)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")
