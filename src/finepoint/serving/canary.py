"""A share of the requests for a new model before it takes over: the old model's worker passes them on.

The new worker listens on a socket of its own. What it fails at, the old one answers after all, so that no client
notices; each such failure is told to the supervisor, which decides (see `supervisor`). Without a canary nothing of this
stands in a request's way.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, urlencode

from finepoint.errors import ConfigurationError
from finepoint.serving.messages import Request, Response
from finepoint.serving.protocol import Application

ANSWERED, FAILED = b"+", b"-"
# A new model that takes longer has failed; the client still has most of its own patience.
_PATIENCE_SECONDS = 10.0
_OF_THE_CONNECTION = ("host", "connection", "content-length", "transfer-encoding", "expect")


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """How a new model is tried before it takes over.

    Args:
        share: of the requests that it gets, above 0 and at most 1.
        requests: after so many answers without too many failures it takes over,
        seconds: or after so many seconds, however few they were.
        max_failures: share of them that it may fail at where the old model does not.
    """

    share: float
    requests: int = 100
    seconds: float = 30.0
    max_failures: float = 0.02

    def verdict(self, answered: int, failed: int, spent: float) -> bool | None:
        """Return whether the new model takes over, or None while it is too early to say.

        >>> plan = CanaryPlan(0.1)
        >>> plan.verdict(20, 0, 5.0), plan.verdict(97, 3, 5.0), plan.verdict(100, 0, 5.0), plan.verdict(2, 0, 31.0)
        (None, False, True, True)
        """
        total = answered + failed
        over = failed > self.max_failures * total
        # One failure in a few requests says little; it must have been more, or be the end.
        if over and failed >= 3:
            return False
        return not over if total >= self.requests or spent >= self.seconds else None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return asdict(self)


def parse_share(text: str, what: str = "canary") -> float:
    """Return the share that `10%` or `0.1` says.

    Raises:
        ConfigurationError: it is no share of traffic.

    >>> parse_share("10%"), parse_share("0.5")
    (0.1, 0.5)
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigurationError(f"{what} is {text!r}; it must be a share of the requests, as 10% or 0.1")
    return share


class SharedTraffic:
    """An application that passes a share of its requests on to another worker, when it is told to.

    Args:
        application: what answers the others, and those that the other worker fails at.
        tell: is called with `ANSWERED` or `FAILED` after each request that was passed on.
    """

    def __init__(self, application: Application, tell: Callable[[bytes], object]) -> None:
        self._application = application
        self._tell = tell
        self._socket = ""
        self._share = self._due = 0.0

    def follow(self, order: Mapping[str, Any]) -> None:
        """Pass a share on to the worker at a socket (`{"socket": PATH, "share": 0.1}`), or stop doing so (`{}`)."""
        self._socket, self._share, self._due = str(order.get("socket", "")), float(order.get("share", 0.0)), 0.0

    def admit(self, request: Request) -> Response | None:
        """Return the refusal of a request that need not be read further, or None."""
        return self._application.admit(request)

    def note(self, request: Request, response: Response) -> None:
        """Take note of a refusal that was sent without asking."""
        self._application.note(request, response)

    async def answer(self, request: Request) -> Response:
        """Return the answer to a whole request, the other worker's or our own."""
        if not self._socket or request.method != "POST":
            return await self._application.answer(request)
        self._due += self._share
        if self._due < 1:
            return await self._application.answer(request)
        self._due -= 1
        asked = self._socket
        theirs = await _asked(asked, request)
        if theirs is not None and theirs.status < 400:
            self._tell_of(asked, ANSWERED)
            return theirs
        ours = await self._application.answer(request)
        # What both refuse is the request's fault; too much load is nobody's.
        blameless = theirs is not None and (theirs.status == 503 or ours.status >= 400)
        self._tell_of(asked, ANSWERED if blameless else FAILED)
        return ours

    def _tell_of(self, asked: str, outcome: bytes) -> None:
        if asked == self._socket:  # else it has ended meanwhile, and its successor is not to blame
            self._tell(outcome)


def order(traffic: Mapping[str, Any] | None = None, *, bear_more_seconds: float | None = None) -> bytes:
    """Return a supervisor's order to its worker as the socket carries it: how to share traffic, or to refuse less."""
    told = {"traffic": traffic} if traffic is not None else {"bear_more_seconds": bear_more_seconds}
    return json.dumps(told).encode() + b"\n"


def follow_orders(
    channel: socket.socket, traffic: SharedTraffic, bear_more: Callable[[float], None], ended: Callable[[], None]
) -> None:
    """Take the supervisor's orders from a socket on the running event loop.

    Args:
        channel: the socket.
        traffic: to share out.
        bear_more: is called with the seconds for which clients are to wait rather than to be refused.
        ended: is called when the supervisor has ended.
    """

    def read() -> None:
        try:
            told = channel.recv(4096)
        except ConnectionError:
            told = b""
        for line in told.splitlines():
            given = json.loads(line)
            if "traffic" in given:
                traffic.follow(given["traffic"])
            else:
                bear_more(given["bear_more_seconds"])
        if not told:
            traffic.follow({})
            asyncio.get_running_loop().remove_reader(channel)
            ended()

    channel.setblocking(False)
    asyncio.get_running_loop().add_reader(channel, read)


async def _asked(path: str, request: Request) -> Response | None:
    """Return the other worker's answer, or None where there is none."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(_head(request) + request.body)
                return await _answer(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        return None


def _head(request: Request) -> bytes:
    target = quote(request.path) + (f"?{urlencode(request.query)}" if request.query else "")
    kept = {name: value for name, value in request.headers.items() if name not in _OF_THE_CONNECTION}
    kept |= {"host": "localhost", "connection": "close", "content-length": str(len(request.body))}
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in kept.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _answer(reader: asyncio.StreamReader) -> Response:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.pop("content-length")))
    headers.pop("connection", None)
    return Response(body, int(first.split(" ")[1]), headers.pop("content-type"), headers)
