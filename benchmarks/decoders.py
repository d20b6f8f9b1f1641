"""What it costs that hostile bytes are decoded where they can die alone: images a second, and one image alone.

Decoding by itself: in threads, in processes with pipes, and in our processes with shared memory. And the whole fast
path but for HTTP, decoding, batching and inference: with threads, and with our processes, in turn.

    python benchmarks/decoders.py [--data FOLDER] [--quick] [--json]
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import numpy as np

from finepoint.data.preprocessing import Preprocessing, preprocess
from finepoint.models.classifier import load_classifier
from finepoint.models.runtimes import cores
from finepoint.serving.admission import Service
from finepoint.serving.builtin import BuiltinModel
from finepoint.serving.decoders import DecoderPool
from finepoint.serving.loading import open_model
from finepoint.serving.messages import Request
from photographs import photographs
from reporting import Goal, parser, report
from serving_processes import package

_DESCRIPTIONS = (Preprocessing(224, 224, 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),)
Decode = Callable[[bytes], Awaitable[list[np.ndarray]]]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="a folder of images; by default made-up photographs")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        contents = [path.read_bytes() for path in photographs(given.data, Path(name), 64)]
    rounds = 3 if given.quick else 9
    speeds = asyncio.run(_measure(contents, rounds))
    with package() as model:
        paths = asyncio.run(_fast_paths(model, contents, rounds))
    rows = [
        {"way": way, "images a second": f"{statistics.median(found):.0f}", "one alone, ms": f"{alone:.2f}"}
        for way, (found, alone) in speeds.items()
    ] + [
        {
            "way": f"fast path, {way}",
            "images a second": f"{statistics.median(found):.1f}",
            "one alone, ms": f"{statistics.median(alone):.2f}",
        }
        for way, (found, alone) in paths.items()
    ]
    (many, one), (our_many, our_one) = paths["threads"], paths["shared memory"]
    goals = [
        Goal("fast path, twelve at once: processes over threads", _ratio(our_many, many), 0.95),
        Goal("fast path, one alone: threads' time over processes'", _ratio(one, our_one), 0.95),
    ]
    report("Decoding photographs", rows, goals, as_json=given.json)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


class _Threads:
    """Decoding in threads of the server, in the place of a pool of processes."""

    deaths = 0

    def __init__(self, descriptions: Sequence[Preprocessing]) -> None:
        self._descriptions = tuple(descriptions)
        self._pool = ThreadPoolExecutor(cores())

    async def decode(self, data: bytes) -> list[np.ndarray]:
        return await asyncio.get_running_loop().run_in_executor(self._pool, preprocess, data, self._descriptions)

    def close(self) -> None:
        self._pool.shutdown()


async def _fast_paths(
    folder: Path, contents: Sequence[bytes], rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Return for each way the images a second of twelve clients, and the milliseconds of one, a round each."""
    ways: dict[str, BuiltinModel] = {}
    for way in ("threads", "shared memory"):
        opened = await open_model(folder, Service(), body_bytes=20 * 2**20)
        assert isinstance(opened, BuiltinModel)
        ways[way] = opened
    ways["threads"]._decoders.close()
    ways["threads"]._decoders = cast(DecoderPool, _Threads(load_classifier(folder).preprocessings))
    for model in ways.values():
        await _clients(model, contents, 12)  # until both have their streams, and are warm
    found: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in ways}
    for _ in range(rounds):
        for way, model in ways.items():
            start = time.perf_counter()
            await _clients(model, contents, 12)
            found[way][0].append(len(contents) / (time.perf_counter() - start))
            found[way][1].append(statistics.median(1000 * spent for spent in await _clients(model, contents, 1)))
    for model in ways.values():
        await model.close()
    return found


async def _clients(model: BuiltinModel, contents: Sequence[bytes], clients: int) -> list[float]:
    """Ask about each image once, so many at once, and return the seconds of each."""
    left, spent = list(contents), []

    async def client() -> None:
        while left:
            start = time.perf_counter()
            answer = await model.invoke(
                Request("POST", "/invocations", headers={"content-type": "image/jpeg"}, body=left.pop())
            )
            assert answer.status == 200
            spent.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    return spent


async def _measure(contents: Sequence[bytes], rounds: int) -> dict[str, tuple[list[float], float]]:
    loop = asyncio.get_running_loop()

    def on(pool: Executor) -> Decode:
        return lambda data: loop.run_in_executor(pool, preprocess, data, _DESCRIPTIONS)

    shared = DecoderPool(_DESCRIPTIONS, processes=cores(), image_bytes=20 * 2**20)
    await shared.open()
    context = get_context("forkserver")
    with ThreadPoolExecutor(cores()) as threads, ProcessPoolExecutor(cores(), mp_context=context) as pipes:
        ways: dict[str, Decode] = {"threads": on(threads), "pipes": on(pipes), "shared memory": shared.decode}
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, decode in ways.items():  # in turn, so that the machine's moods meet all alike
                await asyncio.gather(*map(decode, contents[:8]))
                start = time.perf_counter()
                await asyncio.gather(*map(decode, contents))
                speeds[way].append(len(contents) / (time.perf_counter() - start))
        alone = {way: await _alone(decode, contents) for way, decode in ways.items()}
    shared.close()
    return {way: (speeds[way], alone[way]) for way in ways}


async def _alone(decode: Decode, contents: Sequence[bytes]) -> float:
    times = []
    for content in contents:
        start = time.perf_counter()
        await decode(content)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
