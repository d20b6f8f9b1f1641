"""A package's own handler, behind the endpoint: in a process of its own, which may crash or hang and is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from finepoint.errors import EndpointError, RequestError
from finepoint.serving.admission import Admission, Service
from finepoint.serving.handler_process import LENGTHS, message
from finepoint.serving.messages import Request, Response, refusal
from finepoint.serving.metrics import SECONDS, Counter, Gauge, Histogram, Metric

_LOAD_SECONDS = 300.0
_LONGEST_PAUSE_SECONDS = 30.0
# What a handler may set in its answer, as SageMaker passes it on.
_PASSED_ON = ("x-amzn-sagemaker-custom-attributes",)


class HandlerModel:
    """A handler, one request at a time.

    Args:
        folder: of the package.
        service: bounds.
        version: of the package.
    """

    def __init__(self, folder: Path, service: Service, version: str) -> None:
        self.version = version
        self._folder = folder
        self._service = service
        self._admission = Admission(service.queue_images)
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self._seconds = Histogram("finepoint_phase_seconds", "Seconds that a phase took.", SECONDS, "phase")
        self._deaths = Counter("finepoint_handler_deaths", "Handler processes that died or were ended.")
        in_work = Gauge("finepoint_requests_in_work", "Requests let in.", lambda: self._admission.images)
        self.metrics: list[Metric] = [self._seconds, self._deaths, in_work]

    async def open(self) -> None:
        """Start the process and wait until its model is loaded.

        Raises:
            EndpointError: the handler's code failed; its traceback is in the message.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "finepoint.serving.handler_process", str(self._folder), str(theirs.fileno())]
        # A session of its own: what the handler starts in turn ends with it.
        process = await asyncio.create_subprocess_exec(
            *command, pass_fds=[theirs.fileno()], cwd=self._folder, start_new_session=True
        )
        theirs.close()
        try:
            self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=2**24)
            head, _ = await asyncio.wait_for(self._receive(), _LOAD_SECONDS)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            head = {"failure": f"its process did not load the model within {_LOAD_SECONDS:g} s, or died"}
        except BaseException:
            _kill(process)
            raise
        if head["failure"]:
            self._writer.close()
            _kill(process)
            await process.wait()
            raise EndpointError(f"the package's handler failed: {head['failure']}{self._remedy(head['failure'])}")
        self._process = process
        self._watching = asyncio.get_running_loop().create_task(self._watch(process))

    async def close(self) -> None:
        """End the process."""
        self._closed = True
        for task in (self._restarting, self._watching):
            if task is not None:
                task.cancel()
        await self._end()

    def _remedy(self, failure: str) -> str:
        """Return what to do where a module is missing that the package asks for."""
        requirements = self._folder / "code" / "requirements.txt"
        if "ModuleNotFoundError" not in failure or not requirements.is_file():
            return ""
        return f"what it requires is not installed by the server; `{sys.executable} -m pip install -r {requirements}`"

    @property
    def ready(self) -> bool:
        """Whether the handler's model is loaded."""
        return self._process is not None

    def retry_after(self) -> str | None:
        """Return when to come back where a request must be refused now, else None."""
        return self._admission.retry_after(self._seconds.quantile(0.5, "handler")) if self._admission.full else None

    def bear_more(self, seconds: float) -> None:
        """Refuse fewer requests for so long; see `Admission`."""
        self._admission.bear_more(seconds)

    def metadata(self) -> dict[str, Any]:
        """Return what is known of a handler."""
        return {"handler": "custom"}

    async def invoke(self, request: Request) -> Response:
        """Answer as the handler does; where its process dies that is a 500, where it takes too long a 504."""
        begun = asyncio.Event()
        work = asyncio.get_running_loop().create_task(self._in_turn(request, begun))
        work.add_done_callback(_forget)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Its client has gone, or has had its 504. Once begun it goes on, and holds its place: the handler cannot
            # be told to stop.
            if not begun.is_set():
                work.cancel()
            raise

    async def _in_turn(self, request: Request, begun: asyncio.Event) -> Response:
        with self._admission.holding(1):
            async with self._turn:
                if self._process is None:
                    raise RequestError("the handler's process is coming back; try again in a few seconds", 503)
                begun.set()
                return await self._ask(request)

    async def invoke_batch(self, _request: Request) -> Response:
        """Refuse: a handler knows only `/invocations`."""
        raise RequestError("this package has a handler of its own, which knows only /invocations", 404)

    async def _ask(self, request: Request) -> Response:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._service.request_seconds):
                self._writer.write(message(dict(request.headers), request.body))
                await self._writer.drain()
                head, body = await self._receive()
        except TimeoutError:
            await self._replace()
            return refusal(504, f"the handler took longer than {self._service.request_seconds:g} s and was ended")
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._replace()
            return refusal(500, "the handler's process died of this request; the server's log may say why")
        self._seconds.observe(time.perf_counter() - start, "handler")
        headers = head["headers"]
        passed_on = {name: headers[name] for name in _PASSED_ON if name in headers}
        return Response(body, head["status"], headers.get("content-type", "application/octet-stream"), passed_on)

    async def _receive(self) -> tuple[dict[str, Any], bytes]:
        head, body = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
        return json.loads(await self._reader.readexactly(head)), await self._reader.readexactly(body)

    async def _replace(self) -> None:
        """End the process, and start another one beside the requests that go on."""
        self._deaths.add()
        await self._end()
        if self._closed:
            return
        self._restarting = asyncio.get_running_loop().create_task(self._restart())

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Replace the process also where it dies while nobody asks it: the next request is not to blame."""
        await process.wait()
        async with self._turn:  # who asks it now finds out for himself
            if self._process is process:
                await self._replace()

    async def _restart(self) -> None:
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            try:
                return await self.open()
            except EndpointError as error:
                sys.stderr.write(f"error: {error}\n")
            pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause + 0.5)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._writer.close()
            _kill(process)
            await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a handler's process with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _forget(work: asyncio.Task[Response]) -> None:
    """Look at a request's exception, so that asyncio does not complain where its client has gone."""
    if not work.cancelled():
        work.exception()
