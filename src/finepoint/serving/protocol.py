"""HTTP/1.1 on one connection: parsed by httptools, bounded in bytes and in time at every phase.

A connection waits, receives a head, receives a body, is answered, and waits again. Only a request that has arrived
whole costs more than its bytes: slow clients and half-sent bodies hold a connection and nothing else. What can be
refused is refused as soon as the head is there; the rest of such a body is thrown away as it comes. Who does not read
his answers is not read from either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import parse_qsl, unquote

import httptools

from finepoint.serving.messages import Request, Response, mistake, refusal

_LINGER_SECONDS = 1.0
_SMALL_PART = 4096
# What chunks have around their data may be so many times less than the data: it is, from 24 bytes a chunk on.
_OUTSIDE_SHARE = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a connection.

    Args:
        body_bytes: the largest body.
        head_bytes: the request line and headers together, and what chunks and trailers have around theirs.
        headers: how many of them.
        head_seconds: from the first byte of a head to its last.
        body_seconds: that a body may take to arrive.
        answer_seconds: that a client may take to read an answer.
        idle_seconds: that a connection may wait between two requests.
        connections: at once; more are refused with 503.
        pipelined: requests that a client may send ahead of their answers.
        bodies_bytes: of the bodies of all connections together, until they are answered. Beyond it a connection may
            hold no more than its even share; what needs more is refused with 503.
    """

    body_bytes: int = 20 * 2**20
    head_bytes: int = 32 * 2**10
    headers: int = 100
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 30.0
    idle_seconds: float = 75.0
    connections: int = 1000
    pipelined: int = 16
    bodies_bytes: int = 256 * 2**20


class Application(Protocol):
    """What answers."""

    def admit(self, request: Request) -> Response | None:
        """Return the refusal of a request whose body has not arrived yet, or None to go on."""
        ...

    async def answer(self, request: Request) -> Response:
        """Return the answer to a whole request; cancelled when the client goes away."""
        ...

    def note(self, request: Request, response: Response) -> None:
        """Take note of a refusal that was sent without asking, of what there is of a request."""
        ...


class Crowd:
    """A server's connections, which enter and leave by themselves, and the bytes of bodies that they hold together."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.body_bytes = 0


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        application: what answers.
        limits: of the connection.
        crowd: all connections.
    """

    def __init__(self, application: Application, limits: Limits, crowd: Crowd) -> None:
        self._application = application
        self._limits = limits
        self._crowd = crowd
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set when the connection is made
        self._timer: asyncio.TimerHandle | None = None  # of what is received
        self._unread_timer: asyncio.TimerHandle | None = None  # of what is sent
        self._held_bytes = 0
        self._message = _Message()
        self._head_again = b""
        self._whole: deque[_Message] = deque()
        self._task: asyncio.Task[None] | None = None
        self._sent = asyncio.Event()
        self._sent.set()
        self._draining = self._closing = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a head."""
        self._transport = cast(asyncio.Transport, transport)
        # Anything that is not sent yet counts; not at 0, which with TLS is reached by nothing at all, and not before
        # TLS has sent what ends its own agreeing.
        self._loop.call_soon(self._transport.set_write_buffer_limits, 1, 0)
        self._crowd.connections.add(self)
        if len(self._crowd.connections) > self._limits.connections:
            self._refuse(503, "too many connections are open; try again in a second", {"retry-after": "1"})
        else:
            self._arm(self._limits.head_seconds, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop computing for a client that has gone."""
        self._crowd.connections.discard(self)
        self._closing = True
        self._disarm()
        self._disarm_unread()
        self._let_go(self._held_bytes)
        # The parser and this hold each other: what they hold would wait for the collector of cycles.
        self._message = _Message()
        self._whole.clear()
        self._parser = cast(httptools.HttpRequestParser, None)
        self._sent.set()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse; the callbacks below do the rest."""
        if self._closing:
            return
        message = self._message
        try:
            self._feed(memoryview(data))
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _RefusedError):
                raise
        except httptools.HttpParserError as error:
            self._refuse(400, f"this is not HTTP/1.1 as it should be: {error}")
        if self._message is message and message.begun:
            # What belongs to no body: a head, and what chunks and trailers have around theirs. Of many tiny chunks it
            # is more than they hold.
            message.received += len(data)
            if message.received - message.size > self._limits.head_bytes + message.size // _OUTSIDE_SHARE:
                self._refuse(431, f"more than {self._limits.head_bytes:,} bytes came that are of no body")

    def pause_writing(self) -> None:
        """Read no more until the client has read its answers, for which it has a time of its own."""
        self._sent.clear()
        self._transport.pause_reading()
        self._unread_timer = self._loop.call_later(self._limits.answer_seconds, self.abort)

    def resume_writing(self) -> None:
        """Go on: the answers are sent."""
        self._disarm_unread()
        self._transport.resume_reading()
        self._sent.set()

    def _feed(self, data: memoryview) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as error:
                # Some clients ask for HTTP/2 with every first request; who does not want it answers in HTTP/1.1 (RFC
                # 9110, 7.8). The parser leaves such a request's body unread, so it gets the head without the wish.
                head, self._head_again = self._head_again, b""
                if not head:
                    self._refuse(400, "this server speaks HTTP/1.1 and is no proxy")
                    return
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)
                data = data[error.args[0] :]

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Give the head its time."""
        self._message.begun = True
        self._arm(self._limits.head_seconds, self._too_slow)

    def on_url(self, url: bytes) -> None:
        """Collect the address."""
        self._message.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers are counted and dropped."""
        message, limits = self._message, self._limits
        message.headers_seen += 1
        message.header_bytes += len(name) + len(value)
        if message.headers_seen > limits.headers or message.header_bytes > limits.head_bytes:
            self._refuse(431, f"more than {limits.headers} headers, or than {limits.head_bytes:,} bytes of them")
            raise _RefusedError
        if not message.head_complete:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers = message.headers
            headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        """Ask the application whether it wants the body."""
        message = self._message
        method = self._parser.get_method()
        if self._parser.should_upgrade() and method != b"CONNECT":
            self._head_again = _plain_head(method, self._parser.get_http_version(), message)
            self._message = _Message()
            return
        message.head_complete = True
        message.keep_alive = self._parser.should_keep_alive()
        self._arm(self._limits.body_seconds, self._too_slow)
        declared = message.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._limits.body_bytes:
            self._refuse_large()
        try:
            message.request = _request(method, message)
        except (httptools.HttpParserInvalidURLError, ValueError):
            self._refuse(400, "the address is not a valid one")
            raise _RefusedError from None
        message.refused = self._application.admit(message.request)
        if self._task is not None:
            return  # earlier requests are answered first
        if message.refused is not None:
            self._write(message, message.refused)
            message.answered = True
        elif message.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        """Collect the body, or throw it away where the request was refused."""
        message = self._message
        message.size += len(part)
        if message.size > self._limits.body_bytes:
            self._refuse_large()
        if message.refused is None:
            message.add(part)
            self._hold(len(part))

    def on_message_complete(self) -> None:
        """Have the request answered, after those before it."""
        if self._head_again:
            return  # it has not been read yet
        message, self._message = self._message, _Message()
        self._disarm()
        if message.answered:
            self._after_answer(message)
            return
        ahead = sum(other.size for other in self._whole)
        if len(self._whole) >= self._limits.pipelined or (ahead and ahead + message.size > self._limits.body_bytes):
            self._refuse(400, "too much was sent ahead of its answers")
            raise _RefusedError
        assert message.request is not None
        message.request.body = b"".join(message.parts)
        message.parts.clear()
        self._whole.append(message)
        if self._task is None:
            self._task = self._loop.create_task(self._answer_all())

    # What the server calls.

    def drain(self, *, idle_seconds: float) -> None:
        """Answer what has begun, then close; an idle connection has so many seconds left for a last request."""
        self._draining = True
        if self._task is None and not self._message.begun:
            if idle_seconds > 0:
                self._arm(idle_seconds, self._close)
            else:
                self._close()

    def abort(self) -> None:
        """Close now, whatever is unfinished."""
        self._transport.abort()

    # Answering.

    async def _answer_all(self) -> None:
        message = self._message
        while self._whole and not self._closing:
            message = self._whole.popleft()
            self._write(message, message.refused or await self._answer(message))
            if message.refused is None:
                self._let_go(message.size)
            if not self._sent.is_set():
                await self._sent.wait()
        self._task = None
        if not self._closing:
            self._after_answer(message)

    async def _answer(self, message: _Message) -> Response:
        assert message.request is not None
        try:
            return await self._application.answer(message.request)
        except Exception:  # noqa: BLE001 - a defect of ours costs one answer, not the connection's task
            return mistake()

    def _after_answer(self, message: _Message) -> None:
        if not message.keep_alive or self._draining:
            self._close()
        elif not self._message.begun:
            self._arm(self._limits.idle_seconds, self._close)

    def _write(self, message: _Message, response: Response) -> None:
        if self._closing or self._transport.is_closing():
            return
        message.keep_alive = message.keep_alive and not self._draining
        body = b"" if message.request is not None and message.request.method == "HEAD" else response.body
        self._transport.write(response.head(close=not message.keep_alive) + body)

    def _refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """Answer with a refusal and end the connection, in a way that lets the client read why."""
        if self._closing:
            return
        self._message.keep_alive = False
        if self._task is not None or self._message.answered:
            self._close()  # another answer is under way or sent; there is no place for this one
            return
        response = refusal(status, message, headers)
        self._write(self._message, response)
        self._application.note(self._message.what_came(), response)
        self._closing = True
        self._message.parts.clear()
        self._let_go(self._held_bytes)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._arm(_LINGER_SECONDS, self.abort)

    def _refuse_large(self) -> None:
        self._refuse(413, f"the body is larger than {self._limits.body_bytes:,} bytes; send a smaller image")
        raise _RefusedError

    def _hold(self, size: int) -> None:
        """Count bytes of a body, and refuse it where all bodies together have become too many."""
        limits, crowd = self._limits, self._crowd
        crowd.body_bytes += size
        self._held_bytes += size
        if crowd.body_bytes > limits.bodies_bytes and self._held_bytes > limits.bodies_bytes // limits.connections:
            self._refuse(503, "too many large bodies are on their way; try again in a second", {"retry-after": "1"})
            raise _RefusedError

    def _let_go(self, size: int) -> None:
        size = min(size, self._held_bytes)  # a connection that is lost has let go of all
        self._crowd.body_bytes -= size
        self._held_bytes -= size

    def _too_slow(self) -> None:
        self._refuse(408, "the request took too long to arrive")

    def _close(self) -> None:
        self._closing = True
        if self._task is not None:
            self._task.cancel()
        self._arm(self._limits.answer_seconds, self.abort)
        self._transport.close()

    def _arm(self, seconds: float, action: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, action)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _disarm_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


class _Message:
    """A request on its way in."""

    __slots__ = (
        "answered",
        "begun",
        "head_complete",
        "header_bytes",
        "headers",
        "headers_seen",
        "keep_alive",
        "parts",
        "received",
        "refused",
        "request",
        "size",
        "url",
    )

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.parts: list[bytes | bytearray] = []
        self.request: Request | None = None
        self.refused: Response | None = None
        self.headers_seen = self.header_bytes = self.received = self.size = 0
        self.begun = self.head_complete = self.answered = False
        self.keep_alive = True

    def add(self, part: bytes) -> None:
        """Collect a part of the body; small ones are put together, as each has a head of its own in memory."""
        if len(part) >= _SMALL_PART or not self.parts:
            self.parts.append(part)
        elif isinstance(self.parts[-1], bytearray):
            self.parts[-1] += part
        else:
            self.parts.append(bytearray(part))

    def what_came(self) -> Request:
        """Return the request, or what there is of it."""
        path = self.url.partition(b"?")[0].decode("latin-1")
        return self.request or Request("", path, headers=self.headers)


class _RefusedError(Exception):
    """Stops the parser after a refusal was written."""


def _plain_head(method: bytes, version: str, message: _Message) -> bytes:
    """Return a request's head as it came, but without the wish for another protocol."""
    wishes = {wish.strip().lower() for wish in message.headers.get("connection", "").split(",")}
    kept = {name: value for name, value in message.headers.items() if name not in ("upgrade", "connection")}
    kept |= {"connection": ", ".join(wishes & {"close", "keep-alive"})} if wishes & {"close", "keep-alive"} else {}
    lines = [f"{name}: {value}".encode("latin-1") for name, value in kept.items()]
    return b"\r\n".join([method + b" " + message.url + f" HTTP/{version}".encode(), *lines, b"", b""])


def _request(method: bytes, message: _Message) -> Request:
    url = httptools.parse_url(message.url)
    query = (url.query or b"").decode("latin-1")
    return Request(
        method=method.decode("latin-1"),
        path=unquote((url.path or b"/").decode("latin-1")),
        query=dict(parse_qsl(query, keep_blank_values=True, max_num_fields=100)) if query else {},
        headers=message.headers,
    )
