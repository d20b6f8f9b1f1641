from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from tests.serving.conftest import Reddest, picture, serving

from finepoint.errors import AnswerError, RequestError
from finepoint.models.classifier import Prediction
from finepoint.serving import client
from finepoint.serving.client import Endpoint
from finepoint.serving.tokens import Token

RED = picture((255, 0, 0))


def test_one_image_and_several() -> None:
    with serving() as served:
        endpoint = Endpoint("reddest", served.url)
        assert endpoint.predict(RED).label == "red"
        assert [found.label for found in endpoint.predict([RED, picture((0, 0, 255))])] == ["red", "not <red>"]
        with pytest.raises(RequestError, match="not an image"):
            endpoint.predict(b"no image")


GOOD = {"label": "red", "probability": 1.0, "probabilities": {"red": 1.0}}


def test_an_answer_is_about_one_image_or_several() -> None:
    assert client.rows_of({**GOOD, "model_version": "v1"})[0]["label"] == "red"
    assert client.rows_of({"predictions": [GOOD, GOOD], "model_version": "v1"}) == [GOOD, GOOD]


@pytest.mark.parametrize(
    "value", [None, [], [[0.5, 0.5]], {}, {"predictions": "red"}, {"predictions": [GOOD, {"probabilities": {}}]}]
)
def test_another_kind_of_answer_is_handed_on_as_one(value: object) -> None:
    with pytest.raises(AnswerError) as caught:
        client.rows_of(value)
    assert caught.value.content == value


def test_a_refusal_for_load_is_tried_again_after_the_time_that_the_endpoint_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(Reddest()) as served:
        admission = served.model._admission
        admission.images += 1000
        pauses: list[float] = []

        def wait(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                admission.images -= 1000

        monkeypatch.setattr(client.time, "sleep", wait)
        assert Endpoint("reddest", served.url).predict(RED).label == "red"
        assert len(pauses) == 2
        assert all(0.5 <= pause <= 45 for pause in pauses)
        admission.images += 1000
        with pytest.raises(RequestError, match="503"):
            Endpoint("reddest", served.url, retries=0).predict(RED)


def test_the_token_is_shown_and_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(token=Token("a-secret-of-some-length")) as served:
        with pytest.raises(RequestError, match="401"):
            Endpoint("reddest", served.url).predict(RED)
        monkeypatch.setenv("FINEPOINT_TOKEN", "a-secret-of-some-length")
        endpoint = Endpoint("reddest", served.url)
        assert endpoint.predict(RED).label == "red"
        assert "secret" not in repr(endpoint)


def test_many_images_are_answered_each_for_itself_with_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with serving() as served:
        images = [RED, picture((0, 0, 255)), b"no image", tmp_path / "absent.png"] * 4
        found = Endpoint(served.url).predict_many(images, top=1, progress=lambda *done: seen.append(done))
    assert [type(answer).__name__ for answer in found[:4]] == ["Prediction", "Prediction", "RequestError", "DataError"]
    assert [answer.label for answer in found if isinstance(answer, Prediction)] == ["red", "not <red>"] * 4
    assert seen == [(done, 16) for done in range(1, 17)]


def test_asynchronous_requests_go_side_by_side_and_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(url: str) -> list[str]:
        endpoint = Endpoint(url)
        return [found.label for found in await asyncio.gather(*(endpoint.predict_async(RED) for _ in range(3)))]

    with serving() as served:
        admission = served.model._admission
        admission.images += 1000
        pauses: list[float] = []
        pause = client._pause

        def free(answer: httpx.Response) -> float:
            pauses.append(pause(answer))
            admission.images -= 1000 if len(pauses) == 1 else 0
            return 0.0

        monkeypatch.setattr(client, "_pause", free)
        assert asyncio.run(ask(f"{served.url}/invocations")) == ["red"] * 3
    assert pauses
    assert all(0.5 <= seconds <= 45 for seconds in pauses)
