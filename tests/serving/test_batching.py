from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from finepoint.serving.batching import Batcher, ExpiredError


class Device:
    """Doubles its input; each call waits for the gate, and notes the batch's size."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.begun = threading.Event()

    def __call__(self, crops: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        self.sizes.append(len(crops[0]))
        self.begun.set()
        assert self.gate.wait(10)
        return dict.fromkeys(outputs, crops[0] * 2)


def crop(value: int) -> list[np.ndarray]:
    return [np.array([value])]


async def submitted(
    batcher: Batcher, device: Device, values: Sequence[int]
) -> list[asyncio.Task[dict[str, np.ndarray]]]:
    """Submit one image that occupies the device, then the values, which wait."""
    first = asyncio.create_task(batcher.submit(crop(0), ("logits",)))
    await asyncio.to_thread(device.begun.wait, 10)
    rest = [asyncio.create_task(batcher.submit(crop(value), ("logits",))) for value in values]
    await asyncio.sleep(0)  # each has submitted its image
    return [first, *rest]


def test_what_waits_while_the_device_computes_becomes_the_next_batch() -> None:
    async def run() -> None:
        device = Device()
        batcher = Batcher(device, max_batch=4)
        tasks = await submitted(batcher, device, [1, 2, 3, 4, 5])
        device.gate.set()
        results = await asyncio.gather(*tasks)
        assert [int(result["logits"][0]) for result in results] == [0, 2, 4, 6, 8, 10]
        assert device.sizes == [1, 4, 1]
        batcher.close()

    asyncio.run(run())


def test_nobodys_image_is_not_computed() -> None:
    async def run() -> None:
        device = Device()
        batcher = Batcher(device, max_batch=8)
        first, gone, kept = await submitted(batcher, device, [1, 2])
        late = asyncio.create_task(batcher.submit(crop(3), ("logits",), deadline=0.0))
        await asyncio.sleep(0)
        gone.cancel()
        device.gate.set()
        await asyncio.gather(first, kept)
        with pytest.raises(ExpiredError):
            await late
        assert device.sizes == [1, 1]
        batcher.close()

    asyncio.run(run())


def test_a_failing_device_fails_its_batch_and_goes_on() -> None:
    async def run() -> None:
        def compute(crops: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
            if crops[0][0, 0] < 0:
                raise ValueError("negative")
            return dict.fromkeys(outputs, crops[0])

        batcher = Batcher(compute, max_batch=1)
        bad, good = batcher.submit(crop(-1), ("logits",)), batcher.submit(crop(7), ("logits",))
        results = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(results[0], ValueError)
        assert isinstance(results[1], dict)
        assert results[1]["logits"].tolist() == [7]
        batcher.close()

    asyncio.run(run())


def test_each_image_gets_the_outputs_it_asked_for() -> None:
    async def run() -> None:
        device = Device()
        device.gate.set()
        batcher = Batcher(device, max_batch=8)
        plain, more = await asyncio.gather(
            batcher.submit(crop(1), ("logits",)), batcher.submit(crop(2), ("features", "logits"))
        )
        assert list(plain) == ["logits"]
        assert list(more) == ["features", "logits"]
        batcher.close()

    asyncio.run(run())


def test_one_image_alone_has_the_whole_device_and_several_share_it() -> None:
    async def run() -> None:
        whole, shared = Device(), Device()
        batcher = Batcher(whole, max_batch=8)
        batcher.widen(shared, lanes=2, max_batch=2)
        tasks = await submitted(batcher, whole, [1, 2, 3])
        await asyncio.to_thread(shared.begun.wait, 10)  # the second lane does not wait for the first
        assert whole.sizes == [1]
        shared.gate.set()
        assert [int((await task)["logits"][0]) for task in tasks[1:]] == [2, 4, 6]
        whole.gate.set()
        assert int((await tasks[0])["logits"][0]) == 0
        assert max(shared.sizes) <= 2
        batcher.close()

    asyncio.run(run())
