from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from finepoint.errors import ConfigurationError
from finepoint.serving.canary import ANSWERED, FAILED, SharedTraffic, parse_share
from finepoint.serving.messages import Request, Response


class Old:
    """Answers at once, or when it may."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.may = asyncio.Event()

    def admit(self, _request: Request) -> Response | None:
        return None

    async def answer(self, _request: Request) -> Response:
        await self.may.wait()
        return Response(b"old", self.status)


def test_a_canary_that_does_not_answer_has_failed_only_at_what_the_old_model_can_do(tmp_path: Path) -> None:
    async def run(status: int) -> list[bytes]:
        told: list[bytes] = []
        old = Old(status)
        old.may.set()
        traffic = SharedTraffic(old, told.append)
        traffic.follow({"socket": str(tmp_path / "nobody"), "share": 0.5})
        answers = [await traffic.answer(Request("POST", "/invocations")) for _ in range(4)]
        assert {answer.body for answer in answers} == {b"old"}
        return told

    assert asyncio.run(run(200)) == [FAILED, FAILED]
    assert ANSWERED not in asyncio.run(run(400))  # it did not answer at all


def test_a_late_word_on_a_canary_is_not_told_of_its_successor(tmp_path: Path) -> None:
    async def run() -> None:
        told: list[bytes] = []
        old = Old()
        traffic = SharedTraffic(old, told.append)
        traffic.follow({"socket": str(tmp_path / "first"), "share": 1.0})
        late = asyncio.create_task(traffic.answer(Request("POST", "/invocations")))
        await asyncio.sleep(0)  # it is under way
        traffic.follow({"socket": str(tmp_path / "second"), "share": 0.1})
        old.may.set()
        assert (await late).body == b"old"
        assert told == []

    asyncio.run(run())


@pytest.mark.parametrize("text", ["0%", "101%", "ten", "-1", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="share of the requests"):
        parse_share(text)
