from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from finepoint.data.preprocessing import Preprocessing, preprocess
from finepoint.serving.application import Limits, create_application


class Reddest:
    """Says how red an image is; a stand-in whose answers can be worked out by hand."""

    classes = ("red", "not <red>")
    version = "v1"
    random_weights = False
    preprocessings = (Preprocessing(8, 8, 8, "bilinear", (0, 0, 0), (1, 1, 1)),)

    def preprocess(self, data: bytes) -> list[np.ndarray]:
        return preprocess(data, self.preprocessings)

    def logits(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        red = crops[0][..., 0].mean(axis=(1, 2)) / 255
        return np.stack([red, 1 - red], axis=1)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits, np.float64)


def picture(colour: tuple[int, int, int], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    application = create_application(Reddest, "reddest", Limits(body_bytes=200_000))
    with TestClient(application) as running:
        while running.get("/ping").status_code == 503:
            pass
        yield running


def ask(client: TestClient, body: bytes, kind: str, path: str = "/invocations") -> httpx.Response:
    return client.post(path, content=body, headers={"Content-Type": kind})


def test_ping(client: TestClient) -> None:
    assert client.get("/ping").json() == {"status": "healthy", "endpoint": "reddest", "model_version": "v1"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_answered(client: TestClient, kind: str) -> None:
    answer = ask(client, picture((255, 0, 0), kind), f"image/{kind.lower()}")
    assert answer.status_code == 200
    assert answer.headers["X-Finepoint-Model-Version"] == "v1"
    value = answer.json()
    assert value["label"] == "red"
    assert value["probability"] == pytest.approx(1, abs=0.02)
    assert list(value["probabilities"]) == ["red", "not <red>"]


def test_base64_in_json_alone_and_in_a_list(client: TestClient) -> None:
    red, blue = (base64.b64encode(picture(colour)).decode() for colour in ((255, 0, 0), (0, 0, 255)))
    single = ask(client, json.dumps({"image": red}).encode(), "application/json; charset=utf-8").json()
    assert single["label"] == "red"
    several = ask(
        client, json.dumps({"images": [red, f"data:image/png;base64,{blue}"]}).encode(), "application/json"
    ).json()
    assert [row["label"] for row in several["predictions"]] == ["red", "not <red>"]


def test_top_limits_the_classes(client: TestClient) -> None:
    value = ask(client, picture((255, 0, 0)), "image/png", "/invocations?top=1").json()
    assert list(value["probabilities"]) == ["red"]
    for wrong in ("x", "0", "%C2%B2"):
        assert ask(client, picture((255, 0, 0)), "image/png", f"/invocations?top={wrong}").status_code == 400


def test_the_runtime_clients_path(client: TestClient) -> None:
    assert ask(client, picture((255, 0, 0)), "image/png", "/endpoints/reddest/invocations").status_code == 200
    assert ask(client, picture((255, 0, 0)), "image/png", "/endpoints/other/invocations").status_code == 404


NESTED = b'{"image":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "image/jpeg", 400, "empty"),
        (b"hello", "image/jpeg", 400, "not an image"),
        (picture((1, 2, 3), "JPEG")[:-60], "image/jpeg", 400, "cut off"),
        (b"x", "text/plain", 415, "text/plain"),
        (b"x", "", 415, "none"),
        (b"{", "application/json", 400, "not valid JSON"),
        (b"[1]", "application/json", 400, "must be"),
        (b"{}", "application/json", 400, "must be"),
        (b'{"image": "a", "images": []}', "application/json", 400, "must be"),
        (b'{"image": 7}', "application/json", 400, "not a base64 string"),
        (b'{"image": "%%%"}', "application/json", 400, "not valid base64"),
        (b'{"images": []}', "application/json", 400, "at least one"),
        (json.dumps({"images": ["eA=="] * 65}).encode(), "application/json", 413, "at most 64"),
        (b'{"image": "eA=="}', "application/json", 400, "not an image"),
        (NESTED, "application/json", 400, ""),
        (b"x" * 200_001, "image/jpeg", 413, "larger than"),
        (b"\xff\xfe\xfd", "application/json", 400, "not valid JSON"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_sentence(
    client: TestClient, body: bytes, kind: str, status: int, words: str
) -> None:
    answer = ask(client, body, kind)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == status
    assert words in answer.json()["error"]["message"]


def test_a_body_without_a_length_is_bounded_too(client: TestClient) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"x" * 1000

    answer = client.post("/invocations", content=parts(), headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/invocations", 405), ("POST", "/ping", 405), ("GET", "/nix", 404), ("GET", "/../etc/passwd", 404)],
)
def test_wrong_paths_and_methods(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_model_that_is_loading_is_not_healthy() -> None:
    import threading

    gate = threading.Event()

    def slow() -> Any:
        gate.wait(30)
        return Reddest()

    with TestClient(create_application(slow, "slow")) as running:
        assert running.get("/ping").status_code == 503
        assert ask(running, picture((1, 1, 1)), "image/png").status_code == 503
        gate.set()
        while running.get("/ping").status_code == 503:
            pass
        assert ask(running, picture((1, 1, 1)), "image/png").status_code == 200
