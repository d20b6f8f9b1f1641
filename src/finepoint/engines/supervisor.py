"""The supervisor: starts a job's processes, reads what they print, stops them, and sees them end."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A grandchild that keeps the output open after its parent's end is not waited for longer.
_DRAIN_SECONDS = 5.0

OnLine = Callable[[str, str], None]


@dataclass(frozen=True)
class HostProcess:
    """What is started on a host.

    Args:
        host: its name.
        command: arguments of the process.
        folder: that it runs in.
        environment: its variables, all of them.
    """

    host: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """How the processes ended.

    Args:
        exit_codes: by host; negative for a signal.
        first_failure: the host whose process failed first by itself, or "".
        stopped: why they were stopped, or "".
    """

    exit_codes: Mapping[str, int]
    first_failure: str
    stopped: str


class Supervisor:
    """Runs the processes of a job to their end.

    `stop` may be called from any thread or signal handler: the processes get SIGTERM, and SIGKILL after the grace
    time; a second call kills at once. Where one host's process fails, the others are stopped too.

    Args:
        processes: one for each host.
        max_run_seconds: stop after so long.
        grace_seconds: between SIGTERM and SIGKILL.
        on_line: is called with host and line, as they are printed.
        on_started: is called with the first host's process id as soon as it runs.
    """

    def __init__(
        self,
        processes: Sequence[HostProcess],
        *,
        max_run_seconds: float | None,
        grace_seconds: float,
        on_line: OnLine,
        on_started: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self._wanted = processes
        self._max_run_seconds = max_run_seconds
        self._grace_seconds = grace_seconds
        self._on_line = on_line
        self._on_started = on_started
        # SimpleQueue's put may be called by a signal handler that interrupts its get.
        self._news: queue.SimpleQueue[tuple[str, str, str | int]] = queue.SimpleQueue()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._exit_codes: dict[str, int] = {}
        self._first_failure = ""
        self._stopped = ""
        self._kill_at: float | None = None

    def stop(self, reason: str) -> None:
        """Stop the job; `reason` is put on record."""
        self._news.put(("stop", "", reason))

    def run(self) -> Outcome:
        """Start the processes, and return when all have ended and all that they printed was passed on."""
        try:
            for wanted in self._wanted:
                self._start(wanted)
                if wanted is self._wanted[0]:
                    self._on_started(self._running[wanted.host].pid)
            self._follow()
        finally:
            for process in self._running.values():
                _signal(process, signal.SIGKILL)
        self._drain()
        return Outcome(dict(self._exit_codes), self._first_failure, self._stopped)

    def _start(self, wanted: HostProcess) -> None:
        process = subprocess.Popen(
            list(wanted.command),
            cwd=wanted.folder,
            env=dict(wanted.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._running[wanted.host] = process
        for work in (self._read, self._await):
            thread = threading.Thread(target=work, args=(wanted.host, process), daemon=True)
            thread.start()
            if work == self._read:
                self._readers.append(thread)

    def _read(self, host: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._news.put(("line", host, line))

    def _await(self, host: str, process: subprocess.Popen[str]) -> None:
        self._news.put(("exit", host, process.wait()))

    def _follow(self) -> None:
        begin = time.monotonic()
        deadline = None if self._max_run_seconds is None else begin + self._max_run_seconds
        while len(self._exit_codes) < len(self._wanted):
            moments = [moment for moment in (deadline, self._kill_at) if moment is not None]
            timeout = max(0.0, min(moments) - time.monotonic()) if moments else None
            try:
                self._take(*self._news.get(timeout=timeout))
            except queue.Empty:
                pass
            except KeyboardInterrupt:
                self._end("interrupted")
            if deadline is not None and time.monotonic() >= deadline:
                deadline = None
                self._end(f"it ran longer than {self._max_run_seconds:g} s (max_run)")
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_at = None
                self._signal_all(signal.SIGKILL)

    def _take(self, kind: str, host: str, value: str | int) -> None:
        if kind == "line":
            self._on_line(host, str(value))
        elif kind == "stop":
            self._end(str(value))
        else:
            # Whatever the process started and left behind ends with it, as it does in a container.
            _signal(self._running[host], signal.SIGKILL)
            self._exit_codes[host] = int(value)
            if value != 0 and not self._stopped and not self._first_failure:
                self._first_failure = host
                self._signal_all(signal.SIGTERM)
                self._kill_at = time.monotonic() + self._grace_seconds

    def _end(self, reason: str) -> None:
        if self._stopped:
            self._signal_all(signal.SIGKILL)
            return
        self._stopped = reason
        self._signal_all(signal.SIGTERM)
        self._kill_at = time.monotonic() + self._grace_seconds

    def _signal_all(self, number: signal.Signals) -> None:
        for host, process in self._running.items():
            if host not in self._exit_codes:
                _signal(process, number)

    def _drain(self) -> None:
        """Pass on what was printed before the end."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        while True:
            try:
                kind, host, value = self._news.get_nowait()
            except queue.Empty:
                return
            if kind == "line":
                self._on_line(host, str(value))


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return
