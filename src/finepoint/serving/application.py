"""What the endpoint answers at which path. No torch is imported on its way.

::

    GET  /ping                          200 once the model has answered a warm-up request, 503 before
    POST /invocations                   an image, JSON with base64 images, or a .npy of pixels
    POST /invocations/batch             many images: JSON lines or multipart
    POST /endpoints/NAME/invocations    /invocations at the path, and with the errors, of AWS's runtime client
    GET  /metadata /metrics             what is served, and how it goes (OpenMetrics)
    GET  /docs /openapi.json            how to use it
    GET  / /page.css /page.js           a web page to try it

Every refusal is JSON: `{"error": {"code": 415, "message": "..."}}`.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import finepoint
from finepoint.errors import RequestError
from finepoint.serving import runtime_client
from finepoint.serving.capture import Capture
from finepoint.serving.gate import Gate
from finepoint.serving.messages import Request, Response, json_response, mistake, refusal
from finepoint.serving.metrics import CONTENT_TYPE, SECONDS, Counter, Histogram, Metric, Rate, exposition
from finepoint.serving.openapi import openapi, reference_page
from finepoint.serving.page import PAGES, page

_OPEN = frozenset({"/ping", *PAGES})  # without a token
RUNTIME_PATH = re.compile(r"/endpoints/([^/]{1,200})/invocations")


class ServedModel(Protocol):
    """What stands behind `/invocations`."""

    version: str
    metrics: list[Metric]

    @property
    def ready(self) -> bool:
        """Whether it can answer."""
        ...

    def retry_after(self) -> str | None:
        """Return when to come back where a request must be refused now, else None."""
        ...

    def bear_more(self, seconds: float) -> None:
        """Refuse fewer requests for so long."""
        ...

    def metadata(self) -> dict[str, Any]:
        """Return what a client may want to know of it."""
        ...

    async def invoke(self, request: Request) -> Response:
        """Answer a request, or raise RequestError."""
        ...

    async def invoke_batch(self, request: Request) -> Response:
        """Answer a request of many images, or raise RequestError."""
        ...


Answer = Callable[[Request], Awaitable[Response]]


class EndpointApplication:
    """An endpoint over one model.

    Args:
        model: what answers.
        name: the endpoint's.
        request_seconds: that answering may take.
        gate: who may ask; by default everybody.
        capture: keeps a sample of requests and answers, or None.
    """

    def __init__(
        self,
        model: ServedModel,
        name: str,
        *,
        request_seconds: float = 60.0,
        gate: Gate | None = None,
        capture: Capture | None = None,
    ) -> None:
        self._capture = capture
        self._model = model
        self._name = name
        self._request_seconds = request_seconds
        self._gate = gate or Gate()
        self._requests = Counter("finepoint_requests", "Requests answered, by path and status.")
        self._rejected = Counter("finepoint_rejected", "Requests refused because too many were in work.")
        self._latency = Histogram("finepoint_request_seconds", "From a request's head to its answer.", SECONDS)
        self._rate = Rate()
        self._routes: dict[str, tuple[str, Answer]] = {
            "/ping": ("GET", self._ping),
            "/invocations": ("POST", self._invoke),
            "/invocations/batch": ("POST", self._invoke_batch),
            "/metadata": ("GET", self._metadata),
            "/metrics": ("GET", self._metrics),
            "/openapi.json": ("GET", self._openapi),
            "/docs": ("GET", self._docs),
            **dict.fromkeys(PAGES, ("GET", self._page)),
        }

    def bear_more(self, seconds: float) -> None:
        """Let clients wait rather than refuse them for so long: another worker is being loaded beside this one."""
        self._model.bear_more(seconds)

    def admit(self, request: Request) -> Response | None:
        """Return the refusal of a request that need not be read further, or None."""
        refused = self._gate.refused(request, open_to_all=request.path in _OPEN)
        if refused is None:
            refused = self._refused(request)
            if refused is None:
                return None
            if RUNTIME_PATH.fullmatch(request.path):
                refused = runtime_client.translated(refused)
        return self._finished(request, refused)

    async def answer(self, request: Request) -> Response:
        """Return the answer to a whole request."""
        found = RUNTIME_PATH.fullmatch(request.path)
        response = await self._answer(request, self._invoke if found else self._routes[request.path][1])
        if self._capture is not None and request.method == "POST" and response.status == 200:
            self._capture.offer(request, response)
        if found:
            response = runtime_client.translated(response)
        return self._finished(request, response)

    def note(self, request: Request, response: Response) -> None:
        """Count a refusal that was sent without asking."""
        self._count(request, response)
        if response.status == 503:
            self._rejected.add()

    async def _answer(self, request: Request, work: Answer) -> Response:
        # While a body was on its way others were let in: who has sent his faster is not held up by who has not.
        if request.method == "POST" and (refused := self._overload()) is not None:
            return refused
        try:
            async with asyncio.timeout(max(0.0, request.arrived + self._request_seconds - time.monotonic())):
                return await work(request)
        except RequestError as error:
            headers = {"retry-after": self._model.retry_after() or "1"} if error.status == 503 else None
            return refusal(error.status, str(error), headers)
        except TimeoutError:
            return refusal(504, f"no answer within {self._request_seconds:g} s")
        except Exception:  # noqa: BLE001 - what a runtime raises costs its request, and is counted as all else is
            return mistake()

    def _refused(self, request: Request) -> Response | None:
        runtime = RUNTIME_PATH.fullmatch(request.path)
        if runtime is None and request.path not in self._routes:
            return refusal(404, "there is nothing at this path; POST images to /invocations, GET /ping; see /docs")
        method = "POST" if runtime else self._routes[request.path][0]
        if request.method != method and (method, request.method) != ("GET", "HEAD"):
            return refusal(405, f"this path takes {method}; see /docs", {"allow": method})
        if runtime and (refused := runtime_client.misdirected(runtime[1], self._name, request.headers)) is not None:
            return refused
        return self._overload() if method == "POST" else None

    def _overload(self) -> Response | None:
        if not self._model.ready:
            return refusal(503, "the model is still being loaded; try again in a second", {"retry-after": "1"})
        if (later := self._model.retry_after()) is not None:
            self._rejected.add()
            return refusal(503, "too many images are in work; try again later", {"retry-after": later})
        return None

    def _finished(self, request: Request, response: Response) -> Response:
        self._count(request, response)
        if request.method == "POST" and response.status == 200:
            self._latency.observe(time.monotonic() - request.arrived)
            self._rate.add()
        headers = {"x-amzn-requestid": str(uuid.uuid4()), "x-finepoint-model-version": self._model.version}
        return Response(response.body, response.status, response.content_type, {**headers, **response.headers})

    def _count(self, request: Request, response: Response) -> None:
        path = request.path if request.path in self._routes else "other"
        if RUNTIME_PATH.fullmatch(request.path):
            path = "/endpoints/NAME/invocations"
        self._requests.add(path=path, status=str(response.status))

    async def _ping(self, _request: Request) -> Response:
        if not self._model.ready:
            return refusal(503, "the model is still being loaded", {"retry-after": "1"})
        return json_response({"status": "healthy", "endpoint": self._name, "model_version": self._model.version})

    async def _invoke(self, request: Request) -> Response:
        return await self._model.invoke(request)

    async def _invoke_batch(self, request: Request) -> Response:
        return await self._model.invoke_batch(request)

    async def _metadata(self, _request: Request) -> Response:
        own = {"endpoint": self._name, "model_version": self._model.version, "finepoint": finepoint.__version__}
        return json_response({**own, **self._model.metadata(), "traffic": self._traffic()})

    def _traffic(self) -> Mapping[str, float]:
        return {
            "requests": sum(self._requests.values.values()),
            "rejected": sum(self._rejected.values.values()),
            "answers_per_second": self._rate.value(),
            "p50_seconds": self._latency.quantile(0.5),
            "p99_seconds": self._latency.quantile(0.99),
        }

    async def _metrics(self, _request: Request) -> Response:
        own: Sequence[Metric] = (self._requests, self._rejected, self._latency)
        captured = self._capture.metrics if self._capture is not None else ()
        return Response(exposition([*own, *captured, *self._model.metrics]), 200, CONTENT_TYPE)

    async def _openapi(self, _request: Request) -> Response:
        return json_response(openapi(self._name))

    async def _page(self, request: Request) -> Response:
        return page(request.path)

    async def _docs(self, _request: Request) -> Response:
        return Response(reference_page(openapi(self._name)), 200, "text/html; charset=utf-8")
