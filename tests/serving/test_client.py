from __future__ import annotations

import pytest
from tests.serving.conftest import Reddest, picture, serving

from finepoint.errors import RequestError
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
