"""A request and a response, as the server hands them about."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"


@dataclass(slots=True)
class Request:
    """A request, read whole.

    Args:
        method: in capitals.
        path: percent-decoded, without the query.
        query: the last value of each name in the query.
        headers: by lower-case name; of repeated ones the values joined by a comma.
        body: as received.
        arrived: when its headers were complete, in seconds of the monotonic clock.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    arrived: float = field(default_factory=time.monotonic)

    @property
    def content_type(self) -> str:
        """The `Content-Type` as sent, or ""."""
        return self.headers.get("content-type", "")


@dataclass(frozen=True, slots=True)
class Response:
    r"""A response.

    Args:
        body: as sent.
        status: of HTTP.
        content_type: with its parameters.
        headers: further ones.

    A line's end within a header, which could begin another header or another answer, is sent as a space.

    >>> Response(content_type="text/plain\r\nset-cookie: a=b").head(close=False).splitlines()[1]
    b'content-type: text/plain  set-cookie: a=b'
    """

    body: bytes = b""
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def head(self, *, close: bool) -> bytes:
        """Return the status line and the headers, up to and with the empty line."""
        lines = [
            f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, 'Status')}",
            f"content-type: {_one_line(self.content_type)}",
            f"content-length: {len(self.body)}",
            *(f"{name}: {_one_line(value)}" for name, value in self.headers.items()),
        ]
        if close:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response whose body is a JSON value."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, JSON, headers or {})


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response that says why a request is refused.

    >>> refusal(415, "send an image").body
    b'{"error":{"code":415,"message":"send an image"}}'
    """
    return json_response({"error": {"code": status, "message": message}}, status, headers)


def mistake() -> Response:
    """Write the exception that is being handled to the log, and return what its request is answered."""
    sys.stderr.write(traceback.format_exc())
    return refusal(500, "the server made a mistake; its log has the details")


def _one_line(value: str) -> str:
    return value.replace("\r", " ").replace("\n", " ")


_PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    424: "Failed Dependency",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    507: "Insufficient Storage",
}
