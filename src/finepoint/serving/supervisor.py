"""The process that keeps an endpoint up: `python -m finepoint.serving.supervisor --name NAME ... `.

It owns the listening socket and a worker (`python -m finepoint.serving`) that accepts from it. A worker that dies is
replaced; meanwhile clients wait in the socket's queue. For an update the new worker is started beside the old one, on
the same socket; once it has answered its warm-up request the old one accepts no more and finishes what it has. If the
new one does not come up, the old one stays.

On SIGHUP it reads `wanted_path(name)` (see `registry`) and writes `outcome_path(name)` when the update is done.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from finepoint.errors import ConfigurationError, FinepointError
from finepoint.files import read_json, write_json
from finepoint.serving import registry
from finepoint.serving.server import listening_socket

_GRACE_SECONDS = 30.0
_START_SECONDS = 60.0
# A worker that lived so long gets its successor at once; one that did not waits longer and longer.
_SETTLED_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 5.0


class Supervisor:
    """Keeps one worker accepting from a socket.

    Args:
        name: the endpoint's.
        listener: the socket.
        options: of the worker, besides its model.
    """

    def __init__(self, name: str, listener: socket.socket, options: Sequence[str]) -> None:
        self._name = name
        self._listener = listener
        self._options = list(options)
        self._stopping = asyncio.Event()
        self._updating = asyncio.Event()

    async def run(self, model: str) -> int:
        """Keep the endpoint up until SIGTERM; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._updating.set)
        worker, started = await self._start(model), time.monotonic()
        if not await self._ready(worker):
            return await worker.wait() or 1  # it said why; there is nothing to keep up
        pause = 0.0
        while True:
            await _first(worker.wait(), self._stopping.wait(), self._updating.wait())
            if self._stopping.is_set():
                return await _end(worker)
            if self._updating.is_set():
                self._updating.clear()
                worker, model = await self._update(worker, model)
                started = time.monotonic()
                continue
            settled = time.monotonic() - started > _SETTLED_SECONDS
            pause = 0.0 if settled else min(_LONGEST_PAUSE_SECONDS, 2 * pause + 0.1)
            sys.stderr.write(f"the worker ended with {worker.returncode}; another one starts\n")
            await _first(asyncio.sleep(pause), self._stopping.wait())
            worker, started = await self._start(model), time.monotonic()

    async def _update(self, old: asyncio.subprocess.Process, model: str) -> tuple[asyncio.subprocess.Process, str]:
        """Return the worker and the model that serve after an update."""
        wanted = read_json(registry.wanted_path(self._name))
        new = await self._start(str(wanted["model"]))
        if await self._ready(new):
            with contextlib.suppress(ProcessLookupError):
                old.send_signal(signal.SIGUSR1)
            await old.wait()
            self._report(wanted, "")
            return new, str(wanted["model"])
        with contextlib.suppress(ProcessLookupError):
            new.kill()
        await new.wait()
        self._report(wanted, "the new worker did not come up; the old one goes on")
        return old, model

    def _report(self, wanted: dict[str, object], failure: str) -> None:
        write_json(registry.outcome_path(self._name), {"id": wanted["id"], "failure": failure})

    async def _start(self, model: str) -> asyncio.subprocess.Process:
        self._told, told = os.pipe()
        command = [sys.executable, "-m", "finepoint.serving", "--model", model, "--name", self._name]
        command += ["--listen-fd", str(self._listener.fileno()), "--ready-fd", str(told), *self._options]
        worker = await asyncio.create_subprocess_exec(*command, pass_fds=[self._listener.fileno(), told])
        os.close(told)
        return worker

    async def _ready(self, worker: asyncio.subprocess.Process) -> bool:
        """Return whether the worker started last says that it is ready before it ends or its time is up."""
        loop, said = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._told, said.set)  # a word, or the end of the pipe
        await _first(said.wait(), asyncio.sleep(_START_SECONDS), self._stopping.wait())
        loop.remove_reader(self._told)
        ready = said.is_set() and os.read(self._told, 1) != b""
        os.close(self._told)
        return ready


async def _first(*waits: object) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _end(worker: asyncio.subprocess.Process) -> int:
    """Stop a worker gracefully, or by force after its time is up; return the exit code."""
    with contextlib.suppress(ProcessLookupError):
        worker.terminate()
    try:
        return await asyncio.wait_for(worker.wait(), _GRACE_SECONDS)
    except TimeoutError:
        worker.kill()
        await worker.wait()
        return 1


def main(arguments: list[str] | None = None) -> int:
    """Keep an endpoint up until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m finepoint.serving.supervisor")
    parser.add_argument("--name", required=True, help="the endpoint's name")
    parser.add_argument("--model", required=True, help="model.tar.gz, or its folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to")
    parser.add_argument("--port", type=int, default=0, help="port to bind to")
    given, options = parser.parse_known_args(arguments)
    try:
        try:
            listener = listening_socket(given.host, given.port)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"{given.host}:{given.port} cannot be bound to: {error}") from error
        supervisor_options = ["--host", given.host, *options]
        return asyncio.run(_run(given.name, listener, supervisor_options, given.model))
    except FinepointError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


async def _run(name: str, listener: socket.socket, options: Sequence[str], model: str) -> int:
    return await Supervisor(name, listener, options).run(model)


if __name__ == "__main__":
    sys.exit(main())
