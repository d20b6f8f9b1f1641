"""Many models in one server, by SageMaker's contract for multi-model endpoints: the platform loads and evicts.

::

    POST   /models {"model_name", "url"}    load; 409 if it is loaded, 507 if there is no room
    GET    /models, /models/NAME            what is loaded (?limit=, ?next_page_token=)
    DELETE /models/NAME                     unload, when what it has begun is finished
    POST   /models/NAME/invoke              as /invocations
    POST   /endpoints/NAME/invocations      the same for AWS's runtime client; TargetModel says which model
    GET    /ping                            200

Source: "Build Your Own Container for SageMaker AI Multi-Model Endpoints" in the SageMaker developer guide.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from finepoint.errors import ConfigurationError, EndpointError, FinepointError
from finepoint.serving import runtime_client
from finepoint.serving.application import RUNTIME_PATH, EndpointApplication
from finepoint.serving.builtin import BuiltinModel
from finepoint.serving.gate import Gate
from finepoint.serving.handlers import HandlerModel
from finepoint.serving.memory import free_bytes
from finepoint.serving.messages import Request, Response, json_response, refusal

Opened = BuiltinModel | HandlerModel
_PATH = re.compile(r"/models/([^/]{1,500})(/invoke)?")
_PAGE = 100
_DRAIN_SECONDS = 30.0
# What a model takes while it is served, beside its own files: a decoding process and what the runtime needs to compute.
_EACH_BYTES = 96 * 2**20
_TIMES_ITS_FILES = 3


@dataclass
class _Loaded:
    url: str
    model: Opened
    application: EndpointApplication
    in_work: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class MultiModelApplication:
    """A server's application whose models come and go.

    Args:
        open_model: opens the package in a folder.
        folder: that every model must lie in.
        name: the endpoint's.
        max_models: at once; 0 lets free memory alone decide.
        request_seconds: that answering may take.
        gate: who may ask, also what is loaded and that it be; by default everybody.
    """

    def __init__(
        self,
        open_model: Callable[[Path], Awaitable[Opened]],
        folder: Path,
        name: str,
        *,
        max_models: int = 0,
        request_seconds: float = 60.0,
        gate: Gate | None = None,
    ) -> None:
        self._open_model = open_model
        self._folder = folder.resolve()
        self._name = name
        self._gate = gate or Gate()
        self._max_models = max_models
        self._request_seconds = request_seconds
        self._loaded: dict[str, _Loaded] = {}
        self._loading: dict[str, asyncio.Task[Response]] = {}

    def admit(self, request: Request) -> Response | None:
        """Return the refusal of a request that need not be read further, or None."""
        if (refused := self._gate.refused(request, open_to_all=request.path == "/ping")) is not None:
            return refused
        if (runtime := RUNTIME_PATH.fullmatch(request.path)) is not None:
            return self._admit_runtime(runtime[1], request)
        found = _PATH.fullmatch(request.path)
        if found is not None and found[2]:
            loaded = self._loaded.get(found[1])
            if loaded is None:
                return refusal(404, f"model {found[1]!r} is not loaded")
            return loaded.application.admit(replace(request, path="/invocations"))
        allowed = {"/ping": ("GET",), "/models": ("GET", "POST")}.get(request.path, ("GET", "DELETE") if found else ())
        return _refused_method(request, allowed)

    async def answer(self, request: Request) -> Response:
        """Return the answer to a whole request."""
        if request.path == "/ping":
            return json_response({"status": "healthy", "models": len(self._loaded)})
        if request.path == "/models":
            return await self._load(request) if request.method == "POST" else self._list(request)
        if RUNTIME_PATH.fullmatch(request.path):
            return await self._answer_runtime(request)
        found = _PATH.fullmatch(request.path)
        assert found is not None  # `admit` saw to that
        name = found[1]
        loaded = self._loaded.get(name)
        if loaded is None:
            return refusal(404, f"model {name!r} is not loaded")
        if found[2]:
            return await self._invoke(loaded, request)
        if request.method == "DELETE":
            await self._unload(name, loaded)
            return json_response({"status": f"model {name} unloaded"})
        return json_response(_row(name, loaded))

    def note(self, request: Request, response: Response) -> None:
        """Take note of a refusal that was sent without asking: there is nothing here that counts it."""

    async def close(self) -> None:
        """Unload every model, also those that are just being loaded."""
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for name, loaded in list(self._loaded.items()):
            await self._unload(name, loaded)

    async def _invoke(self, loaded: _Loaded, request: Request) -> Response:
        loaded.in_work += 1
        loaded.idle.clear()
        try:
            return await loaded.application.answer(replace(request, path="/invocations"))
        finally:
            loaded.in_work -= 1
            if not loaded.in_work:
                loaded.idle.set()

    def _admit_runtime(self, asked: str, request: Request) -> Response | None:
        refused = _refused_method(request, ("POST",)) or runtime_client.misdirected(
            asked, self._name, request.headers, many_models=True
        )
        if refused is None and (loaded := self._loaded.get(runtime_client.target_model(request.headers))) is not None:
            refused = loaded.application.admit(replace(request, path="/invocations"))
        return runtime_client.translated(refused) if refused is not None else None

    async def _answer_runtime(self, request: Request) -> Response:
        """Answer by the model that is asked for, which is loaded first where it is not, as the platform would do."""
        name = runtime_client.target_model(request.headers)
        if name not in self._loaded:
            url = str(self._folder / name)
            try:
                path = self._path_of(name, url)
            except ConfigurationError as error:
                return runtime_client.invalid(str(error))
            opened = await self._open(name, url, path)
            if opened.status == 409:
                return runtime_client.not_ready(name)
            if opened.status != 200:
                return runtime_client.translated(opened)
        loaded = self._loaded.get(name)
        if loaded is None:
            return runtime_client.not_ready(name)  # it was unloaded at once
        return runtime_client.translated(await self._invoke(loaded, request))

    async def _load(self, request: Request) -> Response:
        try:
            wanted = json.loads(request.body)
            name, url = str(wanted["model_name"]), str(wanted["url"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return refusal(400, 'the body must be {"model_name": NAME, "url": PATH}')
        try:
            path = self._path_of(name, url)
        except ConfigurationError as error:
            return refusal(400, str(error))
        return await self._open(name, url, path)

    def _path_of(self, name: str, url: str) -> Path:
        """Return where a model lies, if it may be called so and lie there.

        Raises:
            ConfigurationError: it may not, or there can be no such path.
        """
        found = _PATH.fullmatch(f"/models/{name}")
        if found is None or found[2]:
            raise ConfigurationError("a model's name is 1 to 500 characters without a slash")
        try:
            f"{name}{url}".encode()  # answers have both
            path = Path(unquote(url.removeprefix("file://"))).resolve()
            if not path.is_relative_to(self._folder):
                raise ConfigurationError(f"a model must lie in {self._folder}")
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # who opens it says so
                path.stat()
        except (OSError, ValueError, RuntimeError) as error:  # too long, NUL or half a character in it, links in a ring
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigurationError(f"model {name[:200]!r} cannot lie at {url[:200]!r}: {reason}") from error
        return path

    async def _open(self, name: str, url: str, path: Path) -> Response:
        if name in self._loaded or name in self._loading:
            return refusal(409, f"model {name!r} is loaded already")
        if (full := self._full(path)) is not None:
            return refusal(507, full)
        # Once begun it is finished, whoever still waits for it: half a model could not be closed.
        work = self._loading[name] = asyncio.get_running_loop().create_task(self._open_now(name, url, path))
        work.add_done_callback(lambda _: self._loading.pop(name))
        return await asyncio.shield(work)

    async def _open_now(self, name: str, url: str, path: Path) -> Response:
        try:
            model = await self._open_model(path)
        except MemoryError:
            return refusal(507, f"there is not enough memory for model {name!r}")
        except FinepointError as error:
            return refusal(500 if isinstance(error, EndpointError) else 400, str(error))
        application = EndpointApplication(model, name, request_seconds=self._request_seconds)
        self._loaded[name] = _Loaded(url, model, application)
        return json_response({"status": f"model {name} loaded"})

    def _full(self, path: Path) -> str | None:
        """Return why there is no room for another model, or None."""
        count = len(self._loaded) + len(self._loading)
        if self._max_models and count >= self._max_models:
            return f"{count} models are loaded, and no more may be; unload one"
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        needed = _EACH_BYTES + _TIMES_ITS_FILES * sum(file.stat().st_size for file in files)
        free = free_bytes()
        if needed > free:
            return f"a model of this size needs {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free; unload one"
        return None

    async def _unload(self, name: str, loaded: _Loaded) -> None:
        """Forget a model at once, and close it when what it has begun is finished."""
        del self._loaded[name]
        if loaded.in_work:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(loaded.idle.wait(), _DRAIN_SECONDS)
        await loaded.model.close()

    def _list(self, request: Request) -> Response:
        limit, start = request.query.get("limit", str(_PAGE)), request.query.get("next_page_token", "0")
        if not (limit.isdecimal() and start.isdecimal() and 0 < int(limit) <= 10_000 and len(start) < 10):
            return refusal(400, "limit must be 1 to 10,000, and next_page_token one that was given")
        rows = [_row(name, loaded) for name, loaded in sorted(self._loaded.items())]
        end = int(start) + int(limit)
        page: dict[str, Any] = {"models": rows[int(start) : end]}
        if end < len(rows):
            page["nextPageToken"] = str(end)
        return json_response(page)


def _refused_method(request: Request, allowed: Sequence[str]) -> Response | None:
    if not allowed:
        return refusal(404, "there is nothing at this path; see /models")
    if request.method not in allowed:
        return refusal(405, f"this path takes {' or '.join(allowed)}", {"allow": ", ".join(allowed)})
    return None


def _row(name: str, loaded: _Loaded) -> dict[str, str]:
    return {"modelName": name, "modelUrl": loaded.url}
