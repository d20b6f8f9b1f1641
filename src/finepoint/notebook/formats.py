"""Serializers and deserializers: what a predictor sends and how it reads the answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.notebook.arguments import take


class _Serializer:
    CONTENT_TYPE = ""

    def __init__(self, content_type: str | None = None) -> None:
        if content_type is not None:
            self.CONTENT_TYPE = content_type


class _Deserializer:
    ACCEPT: tuple[str, ...] = ()

    def __init__(self, accept: str | Sequence[str] | None = None) -> None:
        if accept is not None:
            self.ACCEPT = (accept,) if isinstance(accept, str) else tuple(accept)


class IdentitySerializer(_Serializer):
    """Sends bytes as they are, a path's content, or text."""

    CONTENT_TYPE = "application/octet-stream"

    def serialize(self, data: Any) -> bytes:
        """Return the bytes to send."""
        if isinstance(data, Path):
            return data.read_bytes()
        return data.encode() if isinstance(data, str) else bytes(data)


class DataSerializer(_Serializer):
    """Sends bytes as they are, or the file that a text or a path names."""

    CONTENT_TYPE = "file-path/raw-bytes"

    def serialize(self, data: bytes | bytearray | str | Path) -> bytes:
        """Return the bytes to send."""
        return Path(data).read_bytes() if isinstance(data, str | Path) else bytes(data)


class JSONSerializer(_Serializer):
    """Sends JSON; arrays become lists.

    >>> JSONSerializer().serialize({"x": np.arange(2)})
    b'{"x": [0, 1]}'
    """

    CONTENT_TYPE = "application/json"

    def serialize(self, data: Any) -> bytes:
        """Return the bytes to send."""
        return json.dumps(data, default=_plain).encode()


class JSONLinesSerializer(_Serializer):
    """Sends a JSON value a line."""

    CONTENT_TYPE = "application/jsonlines"

    def serialize(self, data: Iterable[Any]) -> bytes:
        """Return the bytes to send."""
        return "\n".join(json.dumps(row, default=_plain) for row in data).encode()


class CSVSerializer(_Serializer):
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


class NumpySerializer(_Serializer):
    """Sends an array in NumPy's own format."""

    CONTENT_TYPE = "application/x-npy"

    def __init__(self, dtype: Any = None, content_type: str | None = None) -> None:
        super().__init__(content_type)
        self._dtype = dtype

    def serialize(self, data: Any) -> bytes:
        """Return the bytes to send."""
        content = io.BytesIO()
        np.save(content, np.asarray(data, self._dtype), allow_pickle=False)
        return content.getvalue()


class BytesDeserializer(_Deserializer):
    """Returns the answer as it came."""

    ACCEPT = ("*/*",)

    def deserialize(self, content: bytes, content_type: str) -> Any:
        """Return what the answer says."""
        return content


class StringDeserializer(_Deserializer):
    """Returns the answer as text."""

    ACCEPT = ("application/json",)

    def __init__(self, encoding: str = "UTF-8", accept: str | Sequence[str] | None = None) -> None:
        super().__init__(accept)
        self._encoding = encoding

    def deserialize(self, content: bytes, content_type: str) -> str:
        """Return what the answer says."""
        return content.decode(self._encoding)


class JSONDeserializer(_Deserializer):
    """Returns the JSON value of the answer."""

    ACCEPT = ("application/json",)

    def deserialize(self, content: bytes, content_type: str) -> Any:
        """Return what the answer says."""
        return json.loads(content)


class JSONLinesDeserializer(_Deserializer):
    """Returns the JSON value of each line of the answer."""

    ACCEPT = ("application/jsonlines",)

    def deserialize(self, content: bytes, content_type: str) -> list[Any]:
        """Return what the answer says."""
        return [json.loads(line) for line in content.splitlines() if line.strip()]


class CSVDeserializer(_Deserializer):
    """Returns the rows of the answer, as text."""

    ACCEPT = ("text/csv",)

    def __init__(self, encoding: str = "utf-8", accept: str | Sequence[str] | None = None) -> None:
        super().__init__(accept)
        self._encoding = encoding

    def deserialize(self, content: bytes, content_type: str) -> list[list[str]]:
        """Return what the answer says."""
        return list(csv.reader(content.decode(self._encoding).splitlines()))


class NumpyDeserializer(_Deserializer):
    """Returns the array of the answer; pickled objects in it are refused, unlike in the SDK."""

    ACCEPT = ("application/x-npy",)

    def __init__(
        self, dtype: Any = None, accept: str | Sequence[str] | None = None, allow_pickle: bool = False
    ) -> None:
        super().__init__(accept)
        take("NumpyDeserializer", {"allow_pickle": allow_pickle}, where="here")
        self._dtype = dtype

    def deserialize(self, content: bytes, content_type: str) -> Any:
        """Return what the answer says."""
        if "json" in content_type:
            return np.asarray(json.loads(content), self._dtype)
        found = np.load(io.BytesIO(content), allow_pickle=False)
        return found if self._dtype is None else found.astype(self._dtype)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")
