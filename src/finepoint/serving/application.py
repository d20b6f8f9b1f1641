"""The HTTP application over a classifier. No torch is imported on its way.

::

    GET  /ping                          200 once the model has answered a warm-up request, 503 before
    POST /invocations[?top=N]           an image, or JSON with base64 images; models/answers.py has the forms
    POST /endpoints/NAME/invocations    the same, at the path that AWS's runtime client uses

Every refusal is JSON: `{"error": {"code": 415, "message": "..."}}`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from finepoint.errors import DecodeError, RequestError
from finepoint.models.answers import answer, is_single, read_images
from finepoint.models.classifier import prediction

if TYPE_CHECKING:
    from finepoint.models.classifier import Classifier

Endpoint = Callable[[Request], Awaitable[Response]]


class Model(Protocol):
    """What the application asks of a classifier; `Classifier` has it."""

    classes: tuple[str, ...]
    version: str
    random_weights: bool

    def preprocess(self, data: bytes) -> list[np.ndarray]:
        """Return the crops of an image file."""
        ...

    def logits(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Return logits [n, classes] of crops [n, h, w, 3]."""
        ...

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities [n, classes]."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a request.

    Args:
        body_bytes: the largest body.
        body_seconds: that a body may take to arrive.
    """

    body_bytes: int = 20 * 2**20
    body_seconds: float = 30.0


def create_application(load: Callable[[], Model | Classifier], name: str, limits: Limits | None = None) -> Starlette:
    """Return the application; the model is loaded and warmed up when it starts.

    Args:
        load: returns the classifier.
        name: the endpoint's.
        limits: of a request.
    """
    service = _Service(load, name, limits or Limits())
    return Starlette(
        routes=[
            Route("/ping", service.ping, methods=["GET"]),
            Route("/invocations", service.invoke, methods=["POST"]),
            Route("/endpoints/{name}/invocations", service.invoke, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _on_http_error},
        lifespan=service.lifespan,
    )


class _Service:
    def __init__(self, load: Callable[[], Model | Classifier], name: str, limits: Limits) -> None:
        self._load = load
        self._name = name
        self._limits = limits
        self._model: Model | Classifier | None = None
        # Images are decoded beside inference; inference itself is one at a time, on all cores.
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="decode")
        self._inference = ThreadPoolExecutor(1, thread_name_prefix="infer")

    @contextlib.asynccontextmanager
    async def lifespan(self, _application: Starlette) -> AsyncIterator[None]:
        """Load the model beside the running server, so that /ping can say that it is not ready yet."""
        loading = asyncio.get_running_loop().run_in_executor(self._inference, self._load_and_warm_up)
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # what loading raised was shown when it was raised
                await loading
            self._decoders.shutdown()
            self._inference.shutdown()

    async def ping(self, _request: Request) -> Response:
        """Say whether the model can answer."""
        if self._model is None:
            return _refusal(503, "the model is still being loaded")
        return JSONResponse({"status": "healthy", "endpoint": self._name, "model_version": self._model.version})

    async def invoke(self, request: Request) -> Response:
        """Classify the images in the request."""
        name = request.path_params.get("name", self._name)
        if name != self._name:
            return _refusal(404, f"there is no endpoint {name!r} here; this one is {self._name!r}")
        if self._model is None:
            return _refusal(503, "the model is still being loaded; try again in a second")
        try:
            top = _top(request)
            body = await self._body(request)
            content_type = request.headers.get("content-type", "")
            images = read_images(body, content_type)
            rows = await self._classify(self._model, images)
        except RequestError as error:
            return _refusal(error.status, str(error))
        found = [prediction(self._model.classes, row, top) for row in rows]
        content = answer(
            found,
            self._model.version,
            self._model.random_weights,
            single=is_single(body, content_type),
        )
        return JSONResponse(content, headers={"X-Finepoint-Model-Version": self._model.version})

    def _load_and_warm_up(self) -> None:
        model = self._load()
        crops = [np.zeros((1, crop.height, crop.width, 3), np.uint8) for crop in getattr(model, "preprocessings", ())]
        if crops:
            model.logits(crops)
        self._model = model

    async def _body(self, request: Request) -> bytes:
        limit = self._limits.body_bytes
        too_large = RequestError(f"the body is larger than {limit:,} bytes; send a smaller image", 413)
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise too_large
                    parts.append(part)
        except TimeoutError:
            raise RequestError("the body took too long to arrive", 408) from None
        except ClientDisconnect:
            raise RequestError("the client went away before its body had arrived", 400) from None
        return b"".join(parts)

    async def _classify(self, model: Model | Classifier, images: Sequence[bytes]) -> np.ndarray:
        loop = asyncio.get_running_loop()
        crops = await asyncio.gather(
            *(loop.run_in_executor(self._decoders, _crops, model, image, number) for number, image in enumerate(images))
        )
        stacked = [np.stack(column) for column in zip(*crops, strict=True)]
        logits = await loop.run_in_executor(self._inference, model.logits, stacked)
        return model.probabilities(logits)


def _crops(model: Model | Classifier, data: bytes, number: int) -> list[np.ndarray]:
    try:
        return model.preprocess(data)
    except DecodeError as error:
        raise RequestError(f"image {number}: {error}", 400) from error


def _top(request: Request) -> int | None:
    given = request.query_params.get("top")
    if given is None:
        return None
    if not given.isdecimal() or not 1 <= int(given) <= 100_000:
        raise RequestError(f"top is {given!r}; it must be a whole number from 1 on", 400)
    return int(given)


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {
        404: "there is nothing at this path; POST images to /invocations, GET /ping",
        405: "this path does not take this method; POST images to /invocations, GET /ping",
    }
    return _refusal(error.status_code, sentences.get(error.status_code, error.detail), error.headers)


def _refusal(status: int, message: str, headers: object = None) -> JSONResponse:
    kept = dict(headers) if isinstance(headers, dict) else None
    return JSONResponse({"error": {"code": status, "message": message}}, status_code=status, headers=kept)
