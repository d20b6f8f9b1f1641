"""Load at a rate that does not wait for answers; a request is timed from when it was due, not from when it was sent."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Measured:
    """What came of a load.

    Args:
        accepted: seconds from due to answered, of the requests answered with 200.
        refused: likewise, of those answered with 503.
        failed: requests with another answer, or none.
    """

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0


def quantile(values: list[float], share: float) -> float:
    """Return a quantile, or NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def offer(url: str, body: bytes, rate: float, seconds: float) -> Measured:
    """Offer so many requests a second for so many seconds."""
    return asyncio.run(_offer(url, body, rate, seconds))


async def _offer(url: str, body: bytes, rate: float, seconds: float) -> Measured:
    measured, generator = Measured(), random.Random(0)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    address = urlsplit(url)
    head = f"POST {address.path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    message = head.encode() + body

    async def one(due: float) -> None:
        try:
            pair = idle.pop() if idle else await asyncio.open_connection(address.hostname, address.port)
            reader, writer = pair
            writer.write(message)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line for line in lines.split("\r\n") if line.startswith("content-length:"))
            await reader.readexactly(int(length.split(":")[1]))
        except (OSError, asyncio.IncompleteReadError, StopIteration):
            measured.failed += 1
            return
        took, status = time.perf_counter() - due, int(lines.split(" ")[1])
        if status == 200:
            measured.accepted.append(took)
        elif status == 503:
            measured.refused.append(took)
        else:
            measured.failed += 1
        idle.append(pair)

    due = start = time.perf_counter()
    tasks = []
    while due < start + seconds:
        due += generator.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    return measured
