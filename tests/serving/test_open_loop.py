from __future__ import annotations

from tests.serving.conftest import picture, serving

from finepoint.serving.open_loop import offer, quantile
from finepoint.serving.tokens import Token

RED = picture((255, 0, 0))


def test_every_due_request_is_asked_and_counted() -> None:
    with serving(token=Token("a-secret-of-some-length")) as served:
        url, bodies = f"{served.url}/invocations", [(RED, "image/png"), (b"no image", "image/png")]
        passed: list[float] = []
        measured = offer(url, bodies, 40, 1, token="a-secret-of-some-length", progress=passed.append)
        assert 20 < measured.requests < 70
        assert abs(len(measured.accepted) - measured.failures["status 400"]) <= 1
        assert len(passed) == measured.requests
        assert all(0 < seconds < 10 for seconds in measured.accepted)
        assert set(offer(url, RED, 40, 0.2).failures) == {"status 401"}


def test_a_stalled_server_is_charged_for_the_time_that_requests_were_due() -> None:
    """The device is busy for half a second: those who come meanwhile wait, and are timed from when they were due."""
    with serving() as served:
        served.loop.call_soon_threadsafe(served.loop.call_later, 0.2, _stall)
        measured = offer(f"{served.url}/invocations", [(RED, "image/png")], 60, 1.2)
    late = [seconds for seconds in measured.accepted if seconds > 0.1]
    assert len(late) >= 5
    assert 0.25 < quantile(measured.accepted, 1.0) < 10


def _stall() -> None:
    import time

    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
