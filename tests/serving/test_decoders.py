from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.serving.conftest import Reddest, eventually, picture, serving

from finepoint.data.preprocessing import preprocess
from finepoint.errors import RequestError
from finepoint.serving.decoders import DecoderPool

DESCRIPTIONS = Reddest.preprocessings
IMAGE = picture((10, 200, 30), "JPEG", size=(64, 48))


def with_pool(work: Callable[[DecoderPool], Awaitable[None]], *, processes: int = 1, seconds: float = 10) -> None:
    async def run() -> None:
        pool = DecoderPool(DESCRIPTIONS, processes=processes, image_bytes=1_000_000, seconds=seconds)
        await pool.open()
        try:
            await work(pool)
        finally:
            pool.close()

    asyncio.run(run())


def nursery() -> psutil.Process:
    """Return the process that keeps the decoders of this process alive."""
    return next(child for child in psutil.Process().children() if "decoding_process" in " ".join(child.cmdline()))


def decoders() -> list[psutil.Process]:
    assert eventually(lambda: bool(nursery().children()))
    return nursery().children()


def test_it_decodes_as_the_one_preprocessing_does() -> None:
    async def work(pool: DecoderPool) -> None:
        found = await asyncio.gather(*(pool.decode(IMAGE) for _ in range(5)))
        for crops in found:
            assert np.array_equal(crops[0], preprocess(IMAGE, DESCRIPTIONS)[0])

    with_pool(work, processes=2)


def test_the_warm_up_waits_for_every_process() -> None:
    async def work(pool: DecoderPool) -> None:
        await pool.warm_up()
        # Each has decoded an image, without one that came later.
        assert [slot.memory[0] for slot in pool._slots] == [128, 128]
        assert len(nursery().children()) == 2

    with_pool(work, processes=2)


def test_a_refusal_has_the_decoders_reason_and_costs_no_process() -> None:
    async def work(pool: DecoderPool) -> None:
        with pytest.raises(RequestError, match="not an image") as caught:
            await pool.decode(b"no image")
        assert caught.value.status == 400
        assert pool.deaths == 0

    with_pool(work)


def test_a_process_killed_from_outside_costs_nobody_an_answer() -> None:
    async def work(pool: DecoderPool) -> None:
        await pool.decode(IMAGE)
        for victim in (decoders()[0], nursery()):
            os.kill(victim.pid, signal.SIGSTOP)  # so that the job is with it when it dies
            waiting = asyncio.create_task(pool.decode(IMAGE))
            await asyncio.sleep(0)
            os.kill(victim.pid, signal.SIGKILL)
            assert np.array_equal((await waiting)[0], preprocess(IMAGE, DESCRIPTIONS)[0])
        while pool.deaths < 2:  # the nursery's end is noticed a moment after its children's last answers
            await asyncio.sleep(0)
        assert len(await pool.decode(IMAGE)) == 1

    with_pool(work)


def test_an_image_that_takes_too_long_is_refused_and_the_process_comes_back() -> None:
    async def work(pool: DecoderPool) -> None:
        await pool.decode(IMAGE)
        os.kill(decoders()[0].pid, signal.SIGSTOP)
        with pytest.raises(RequestError, match="took longer than"):
            await pool.decode(IMAGE)
        assert len(await pool.decode(IMAGE)) == 1

    with_pool(work, seconds=1)


def test_a_body_that_kills_its_decoder_is_answered_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A decoder with a fatal flaw: Python loads this module in the decoding processes only.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'finepoint.serving.decoding_process' in sys.orig_argv:\n"
        "    import os, signal, finepoint.data.preprocessing as p\n"
        "    good = p.preprocess\n"
        "    def flawed(data, descriptions):\n"
        "        if data.startswith(b'killer'):\n"
        "            os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        return good(data, descriptions)\n"
        "    p.preprocess = flawed\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving() as served:
        for _ in range(3):
            answer = served.ask(b"killer", "image/jpeg")
            assert answer.status_code == 400
            assert "died of it" in answer.json()["error"]["message"]
            assert served.ask(picture((255, 0, 0)), "image/png").json()["label"] == "red"
        assert served.model._decoders.deaths == 6
