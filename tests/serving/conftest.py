"""A model whose answers can be worked out by hand, and a real server around it on loopback."""

from __future__ import annotations

import asyncio
import io
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
from PIL import Image

from finepoint.data.preprocessing import Preprocessing
from finepoint.serving.admission import Service
from finepoint.serving.application import EndpointApplication
from finepoint.serving.builtin import BuiltinModel
from finepoint.serving.capture import Capture
from finepoint.serving.decoders import DecoderPool
from finepoint.serving.gate import Gate
from finepoint.serving.handlers import HandlerModel
from finepoint.serving.insight import Insight
from finepoint.serving.protocol import Limits
from finepoint.serving.server import Server, listening_socket
from finepoint.serving.tokens import Token


class Reddest:
    """Says how red an image is."""

    classes = ("red", "not <red>")
    version = "v1"
    random_weights = False
    description: ClassVar[dict[str, Any]] = {"schema_version": 1}
    preprocessings = (Preprocessing(8, 8, 8, "bilinear", (0, 0, 0), (1, 1, 1)),)

    def compute(self, crops: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        red = crops[0][..., 0].mean(axis=(1, 2)) / 255
        values = {"logits": np.stack([red, 1 - red], axis=1), "features": crops[0].mean(axis=(1, 2))}
        return {name: values[name] for name in outputs}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits, np.float64)


class Served:
    """A server that runs in a thread of its own, as tests see it."""

    def __init__(self, port: int, model: Any, server: Server, *, tls: bool = False) -> None:
        self.port, self.model, self.server = port, model, server
        self.loop = asyncio.get_running_loop()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=30, verify=not tls)

    def ask(self, body: bytes, kind: str, path: str = "/invocations", **headers: str) -> httpx.Response:
        return self.client.post(path, content=body, headers={"Content-Type": kind, **headers})


@contextmanager
def serving(
    model: Any = None,
    *,
    limits: Limits | None = None,
    service: Service | None = None,
    token: Token | None = None,
    any_host: bool = True,
    tls: ssl.SSLContext | None = None,
    folder: Path | None = None,
    insight: Insight | None = None,
    capture: Capture | None = None,
) -> Iterator[Served]:
    """Serve a model, or a folder with a handler of its own, on loopback while the block runs."""
    model, limits, service = model or Reddest(), limits or Limits(), service or Service(decoders=2)
    started: list[Served] = []
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        opened: Any
        if folder is not None:
            opened = HandlerModel(folder, service, "v1")
        else:
            decoders = DecoderPool(
                model.preprocessings, processes=service.decoders, image_bytes=limits.body_bytes, seconds=5
            )
            opened = BuiltinModel(model, decoders, service, insight)
        await opened.open()
        gate = Gate(token, any_host=any_host)
        application = EndpointApplication(
            opened, "reddest", request_seconds=service.request_seconds, gate=gate, capture=capture
        )
        server = Server(application, limits)
        listener = listening_socket("127.0.0.1", 0)
        server.listen(listener, tls)
        started.append(Served(listener.getsockname()[1], opened, server, tls=tls is not None))
        ready.set()
        await stop.wait()
        await server.stop(grace_seconds=5)
        await opened.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert ready.wait(30)
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
        for served in started:
            served.client.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(limits=Limits(body_bytes=200_000)) as running:
        yield running


def picture(colour: tuple[int, int, int], kind: str = "PNG", size: tuple[int, int] = (20, 10), **save: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind, **save)
    return stream.getvalue()


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Return whether something becomes true in time."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        pause.wait(0.005)
    return True
