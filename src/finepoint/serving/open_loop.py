"""Load at a rate that does not wait for answers; a request is timed from when it was due, not from when it was sent.

A client that waits for one answer before it asks again slows down with the server, and so never sees what users would
("coordinated omission"). Here requests are due at random times of a given rate, whatever has become of earlier ones.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# Due and not answered after so long, a request counts as failed.
_SECONDS = 60.0
# What a system lets one process open at once, less some for itself.
_CONNECTIONS = 800
_LAST_ROUND_SECONDS = 0.01


@dataclass
class Measured:
    """What came of a load.

    Args:
        accepted: seconds from due to answered, of the requests answered with 200.
        refused: likewise, of those answered with 503.
        failures: how many requests had another status, or ended in an error, by its name.
    """

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """How many requests had another answer than 200 or 503, or none."""
        return self.failures.total()

    @property
    def requests(self) -> int:
        """How many there were."""
        return len(self.accepted) + len(self.refused) + self.failed


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile, or NaN of nothing.

    >>> quantile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def offer(
    url: str,
    bodies: bytes | Sequence[tuple[bytes, str]],
    rate: float,
    seconds: float,
    *,
    token: str = "",
    trust: ssl.SSLContext | None = None,
    progress: Callable[[float], None] | None = None,
) -> Measured:
    """Offer so many requests a second for so many seconds.

    Args:
        url: with its path.
        bodies: of the requests, with their content types, in turn; or one JPEG.
        rate: requests a second, at random times (a Poisson process).
        seconds: that it lasts; answers are waited for.
        token: shown to the endpoint, or "".
        trust: what the certificate of an https address is verified by; by default the system's certificates.
        progress: called with the seconds that have passed.
    """
    given = [(bodies, "image/jpeg")] if isinstance(bodies, bytes) else list(bodies)
    return asyncio.run(_Load(url, given, token, trust).run(rate, seconds, progress))


class _Load:
    def __init__(self, url: str, bodies: Sequence[tuple[bytes, str]], token: str, trust: ssl.SSLContext | None) -> None:
        address = urlsplit(url)
        self._host = address.hostname or ""
        self._tls = (trust or ssl.create_default_context()) if address.scheme == "https" else None
        self._port = address.port or (443 if self._tls else 80)
        shown = f"Authorization: Bearer {token}\r\n" if token else ""
        self._messages = [
            f"POST {address.path or '/'} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {kind}\r\n{shown}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
            for body, kind in bodies
        ]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._measured = Measured()

    async def run(self, rate: float, seconds: float, progress: Callable[[float], None] | None) -> Measured:
        generator, places = random.Random(0), asyncio.Semaphore(_CONNECTIONS)  # noqa: S311 - no secret

        async def one(due: float, message: bytes) -> None:
            async with places:
                try:
                    async with asyncio.timeout(_SECONDS):
                        status = await self._ask(message)
                except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                    self._measured.failures[type(error).__name__] += 1
                    return
            took = time.perf_counter() - due
            if status == 200:
                self._measured.accepted.append(took)
            elif status == 503:
                self._measured.refused.append(took)
            else:
                self._measured.failures[f"status {status}"] += 1

        due = start = time.perf_counter()
        tasks: list[asyncio.Task[None]] = []
        while due < start + seconds:
            due += generator.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(due, self._messages[len(tasks) % len(self._messages)])))
            if progress is not None:
                progress(time.perf_counter() - start)
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.transport.abort()  # who speaks TLS would wait for the other side's farewell
        await asyncio.sleep(_LAST_ROUND_SECONDS)  # what is closed goes in the loop's next rounds
        return self._measured

    async def _ask(self, message: bytes) -> int:
        """Return the status that a request is answered with, on a connection that is free or a new one."""
        pair = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        reader, writer = pair
        try:
            writer.write(message)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            lines = head.split("\r\n")
            length = next(line for line in [*lines, "content-length:0"] if line.startswith("content-length:"))
            await reader.readexactly(int(length.split(":")[1]))
            status = int(lines[0].split(" ")[1])
        except BaseException:
            writer.close()
            raise
        if "connection: close" in lines:
            writer.close()
        else:
            self._idle.append(pair)
        return status
