"""The process that keeps an endpoint up: `python -m finepoint.serving.supervisor --name NAME ... `.

It owns the listening socket and a worker (`python -m finepoint.serving`) that accepts from it. A worker that dies is
replaced; meanwhile clients wait in the socket's queue. For an update the new worker is started beside the old one, on
the same socket; once it has answered its warm-up request the old one accepts no more and finishes what it has. If the
new one does not come up, the old one stays. With a canary the new model first gets a share of the requests from the
old one's worker (see `canary`), and takes over only if it does not fail at what the old one can do.

A worker of a registered endpoint brings its supervisor back if that is killed (see `succession`).

On SIGHUP it reads `wanted_path(name)` (see `registry`) and writes `outcome_path(name)` when the new worker has taken
over, or will not. SIGTERM ends it whatever it is at: a worker that is still loading is killed, one that has clients
finishes what it has begun.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finepoint.errors import FinepointError
from finepoint.files import read_json, write_json
from finepoint.serving import registry
from finepoint.serving.canary import ANSWERED, FAILED, CanaryPlan, order
from finepoint.serving.server import open_listener
from finepoint.serving.succession import take_over
from finepoint.serving.versions import package_version

_GRACE_SECONDS = 30.0
# Until a model must be loaded, where nobody says otherwise.
_START_SECONDS = 300.0
# A worker that lived so long gets its successor at once; one that did not waits longer and longer.
_SETTLED_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 5.0
_BACKLOG = 1024
_LOOK_SECONDS = 0.5
_LAST_WORDS_SECONDS = 3.0


class Supervisor:
    """Keeps one worker accepting from a socket.

    Args:
        name: the endpoint's.
        listener: the socket.
        options: of every worker, whatever it serves.
    """

    def __init__(self, name: str, listener: socket.socket, options: Sequence[str]) -> None:
        self._name = name
        self._listener = listener
        self._options = list(options)
        self._registered = "--registered" in options
        self._draining: set[asyncio.Task[object]] = set()
        self._stopping = asyncio.Event()
        self._updating = asyncio.Event()

    async def run(self, model: Served, predecessors: socket.socket | None = None) -> int:
        """Keep the endpoint up until SIGTERM; return the exit code.

        Args:
            model: the package, and how it is served.
            predecessors: to the worker of the supervisor that was killed; it is told to stop once another is ready.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._updating.set)
        worker, started = await self._start(model), time.monotonic()
        if not await self._ready(worker, model):
            # It said why; there is nothing to keep up.
            return 0 if self._stopping.is_set() else max(1, worker.process.returncode or 1)
        if predecessors is not None:
            with contextlib.suppress(ConnectionError):
                predecessors.send(b"1")
            predecessors.close()
        pause = 0.0
        while True:
            await _first(worker.process.wait(), self._stopping.wait(), self._updating.wait())
            if self._stopping.is_set():
                # One that has ended, or was still loading, has nothing to finish.
                code = 0 if worker.process.returncode is not None else await _end(worker)
                await asyncio.gather(*self._draining)
                return code
            if self._updating.is_set():
                self._updating.clear()
                worker, model = await self._update(worker, model)
                started = time.monotonic()
                continue
            settled = time.monotonic() - started > _SETTLED_SECONDS
            pause = 0.0 if settled else min(_LONGEST_PAUSE_SECONDS, 2 * pause + 0.1)
            sys.stderr.write(f"the worker ended with {worker.process.returncode}; another one starts\n")
            worker.channel.close()
            await _first(asyncio.sleep(pause), self._stopping.wait())
            worker, started = await self._start(model), time.monotonic()
            await self._ready(worker, model)  # if it is not, it has ended, and the next round starts another one

    async def _update(self, old: _Worker, model: Served) -> tuple[_Worker, Served]:
        """Return the worker and the model that serve after an update."""
        wanted = _order_of(self._name)
        if wanted is None:
            sys.stderr.write("SIGHUP without an order that is new: nothing is changed\n")
            return old, model
        served = Served(str(wanted["model"]), tuple(wanted["options"]), float(wanted["start_seconds"]))
        tried: dict[str, int] = {}
        _bear_more(old, served.start_seconds)
        if wanted["canary"]:
            failure, tried = await self._try(old, served, CanaryPlan(**wanted["canary"]))
            if failure:
                _bear_more(old, 0)
                self._report(wanted, failure, tried)
                return old, model
        new = await self._start(served)
        if await self._ready(new, served, beside=old):
            with contextlib.suppress(ProcessLookupError):
                old.process.send_signal(signal.SIGUSR1)
            self._let_end(_drained(old))
            if self._registered:
                registry.change(
                    self._name, os.getpid(), model=served.path, model_version=package_version(Path(served.path))
                )
            self._report(wanted, "", tried)
            return new, served
        _bear_more(old, 0)
        self._report(wanted, self._why_not(old), tried)
        return old, model

    def _why_not(self, old: _Worker) -> str:
        """Return why a new worker may not take over."""
        if self._stopping.is_set():
            return "the endpoint was stopped meanwhile"
        if old.process.returncode is not None:
            return "the old worker died meanwhile and is started again; deploy once more"
        return "the new worker did not come up; the old one goes on"

    def _let_end(self, ending: Coroutine[Any, Any, object]) -> None:
        """Have a worker end beside all else; whoever stops this process waits for it."""
        task = asyncio.get_running_loop().create_task(ending)
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _try(self, old: _Worker, model: Served, plan: CanaryPlan) -> tuple[str, dict[str, int]]:
        """Give a new model a share of the requests; return why it may not take over, and how many it answered."""
        seen: Counter[bytes] = Counter()
        loop, heard, start = asyncio.get_running_loop(), asyncio.Event(), time.monotonic()

        def hear() -> None:
            told = _heard(old.channel)
            seen.update(told[place : place + 1] for place in range(len(told)))
            heard.set()
            if not told:
                loop.remove_reader(old.channel)

        with tempfile.TemporaryDirectory(prefix="finepoint-") as folder:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(f"{folder}/canary")
            listener.listen(_BACKLOG)
            new = await self._start(model, listener)
            listener.close()
            if not await self._ready(new, model, beside=old):
                return self._why_not(old), {}
            with contextlib.suppress(OSError):
                old.channel.recv(4096)  # the last words on an earlier canary
            with contextlib.suppress(OSError):  # it may just have died, which is seen below
                old.channel.send(order({"socket": f"{folder}/canary", "share": plan.share}))
            loop.add_reader(old.channel, hear)
            verdict: bool | None = None
            while verdict is None and not self._stopping.is_set():
                ended = [worker.process.returncode is not None for worker in (old, new)]
                verdict = False if any(ended) else plan.verdict(seen[ANSWERED], seen[FAILED], time.monotonic() - start)
                if verdict is None:
                    heard.clear()
                    await _first(
                        heard.wait(),
                        asyncio.sleep(_LOOK_SECONDS),
                        new.process.wait(),
                        old.process.wait(),
                        self._stopping.wait(),
                    )
            loop.remove_reader(old.channel)
            with contextlib.suppress(OSError):
                old.channel.send(order({}))
            self._let_end(_end(new))
        tried = {"requests": seen[ANSWERED] + seen[FAILED], "failed": seen[FAILED]}
        if verdict:
            return "", tried
        why = "the new worker died" if ended[1] else "the old worker died meanwhile" if ended[0] else "it failed"
        return f"{why}: of {tried['requests']} requests {tried['failed']} failed; the old model goes on", tried

    def _report(self, wanted: dict[str, object], failure: str, tried: dict[str, int]) -> None:
        write_json(registry.outcome_path(self._name), {"id": wanted["id"], "failure": failure, "canary": tried})

    async def _start(self, model: Served, listener: socket.socket | None = None) -> _Worker:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        number = (listener or self._listener).fileno()
        command = [sys.executable, "-m", "finepoint.serving", "--model", model.path, "--name", self._name]
        command += ["--listen-fd", str(number), "--ready-fd", str(theirs.fileno()), *self._options, *model.options]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=[number, theirs.fileno()])
        theirs.close()
        return _Worker(process, ours)

    async def _ready(self, worker: _Worker, model: Served, beside: _Worker | None = None) -> bool:
        """Return whether a worker says that it is ready before its time is up; one that does not has ended then.

        It is not waited for once the one `beside` it has died: that one comes back sooner.
        """
        loop, said = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(worker.channel, said.set)  # a word, or the end
        ends = [said.wait(), asyncio.sleep(model.start_seconds), self._stopping.wait()]
        await _first(*ends, *([beside.process.wait()] if beside is not None else []))
        loop.remove_reader(worker.channel)
        if said.is_set() and _heard(worker.channel) != b"":
            return True
        if said.is_set():
            await _first(worker.process.wait(), asyncio.sleep(_LAST_WORDS_SECONDS))
        elif not self._stopping.is_set() and (beside is None or beside.process.returncode is None):
            sys.stderr.write(
                f"error: the model was not loaded within {model.start_seconds:g} s; --start-seconds gives it longer\n"
            )
        await _kill(worker)  # it has no clients yet
        return False


@dataclass(frozen=True, slots=True)
class Served:
    """A package, and how it is served.

    Args:
        path: of the package.
        options: of its worker: whether its code may run, and what computes it.
        start_seconds: until a worker must have loaded it.
    """

    path: str
    options: tuple[str, ...]
    start_seconds: float


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker, and the socket on which it says that it is ready, takes orders, and tells of a canary."""

    process: asyncio.subprocess.Process
    channel: socket.socket


def _order_of(name: str) -> dict[str, Any] | None:
    """Return what `deploy` wants of an endpoint, or None where there is nothing that was not tried already."""
    path, outcome = registry.wanted_path(name), registry.outcome_path(name)
    if not path.is_file():
        return None
    wanted: dict[str, Any] = read_json(path)
    return None if outcome.is_file() and read_json(outcome)["id"] == wanted["id"] else wanted


def _bear_more(worker: _Worker, seconds: float) -> None:
    """Have a worker let clients wait rather than refuse them, while another one takes a part of the machine."""
    with contextlib.suppress(OSError):
        worker.channel.send(order(bear_more_seconds=seconds))


def _heard(channel: socket.socket) -> bytes:
    """Return what a worker said, or nothing where it has ended."""
    try:
        return channel.recv(4096)
    except ConnectionError:
        return b""


async def _first(*waits: object) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _end(worker: _Worker) -> int:
    """Stop a worker gracefully, or by force after its time is up; return the exit code."""
    with contextlib.suppress(ProcessLookupError):
        worker.process.terminate()
    try:
        code = await asyncio.wait_for(worker.process.wait(), _GRACE_SECONDS)
    except TimeoutError:
        code = 1
    await _kill(worker)
    return code


async def _drained(worker: _Worker) -> None:
    """Wait until a worker that accepts no more has ended, by force after its time is up."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(worker.process.wait(), _GRACE_SECONDS + _LAST_WORDS_SECONDS)
    await _kill(worker)


async def _kill(worker: _Worker) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.process.kill()
    await worker.process.wait()
    worker.channel.close()


def main(arguments: list[str] | None = None) -> int:
    """Keep an endpoint up until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m finepoint.serving.supervisor", allow_abbrev=False)
    parser.add_argument("--name", required=True, help="the endpoint's name")
    parser.add_argument("--model", required=True, help="model.tar.gz, or its folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to")
    parser.add_argument("--port", type=int, default=0, help="port to bind to")
    parser.add_argument("--listen-fd", type=int, help="a socket that listens already, instead of host and port")
    parser.add_argument("--predecessor", type=int, help="number of the process whose registered endpoint this is")
    parser.add_argument("--predecessor-fd", type=int, help="a socket to the worker of a supervisor that was killed")
    parser.add_argument("--start-seconds", type=float, default=_START_SECONDS, help="until a model must be loaded")
    parser.add_argument("--allow-code", action="store_true", help="run the package's own code/inference.py")
    parser.add_argument("--runtime", help="that computes")
    given, options = parser.parse_known_args(arguments)
    try:
        predecessors = None
        if given.predecessor is not None and not take_over(given.name, given.model, given.predecessor):
            return 0  # the endpoint was removed meanwhile
        if given.predecessor_fd is not None:
            predecessors = socket.socket(fileno=given.predecessor_fd)
            sys.stderr.write("the supervisor was killed; another one has taken its place\n")
        listener = open_listener(given.host, given.port, given.listen_fd)
        code = asyncio.run(_run(given, options, listener, predecessors))
    except FinepointError as error:
        sys.stderr.write(f"error: {error}\n")
        code = error.exit_code
    if given.predecessor is not None and given.predecessor_fd is None and code:
        registry.forget(given.name, os.getpid())  # it never answered; who deploys may be gone
    return code


async def _run(
    given: argparse.Namespace, options: Sequence[str], listener: socket.socket, predecessors: socket.socket | None
) -> int:
    own = (*(["--allow-code"] if given.allow_code else []), *(["--runtime", given.runtime] if given.runtime else []))
    supervisor = Supervisor(given.name, listener, ["--host", given.host, *options])
    return await supervisor.run(Served(given.model, own, given.start_seconds), predecessors)


if __name__ == "__main__":
    sys.exit(main())
