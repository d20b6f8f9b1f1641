"""Decoding in threads, in processes with pipes, and in our processes with shared memory: images a second.

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

import numpy as np

from finepoint.data.preprocessing import Preprocessing, preprocess
from finepoint.models.runtimes import cores
from finepoint.serving.decoders import DecoderPool
from photographs import photographs
from reporting import Goal, parser, report

_DESCRIPTIONS = (Preprocessing(224, 224, 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),)
Decode = Callable[[bytes], Awaitable[list[np.ndarray]]]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="a folder of images; by default made-up photographs")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        contents = [path.read_bytes() for path in photographs(given.data, Path(name), 64)]
    speeds = asyncio.run(_measure(contents, 3 if given.quick else 9))
    rows = [
        {"way": way, "images a second": f"{statistics.median(found):.0f}", "one alone, ms": f"{alone:.2f}"}
        for way, (found, alone) in speeds.items()
    ]
    # A photograph also costs inference; the fast path's share is what is added to decoding and that together.
    threads, ours = speeds["threads"], speeds["shared memory"]
    ratio = statistics.median(b / a for a, b in zip(threads[0], ours[0], strict=True))
    goals = [Goal("shared memory over threads, all cores", ratio, 0.95)]
    report("Decoding photographs", rows, goals, as_json=given.json)


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
