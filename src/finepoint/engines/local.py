"""The local engine: a job is a child process in its own folder, watched by the one supervisor that sees it end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from finepoint.engines.container import command, lay_out, variables
from finepoint.engines.spec import JobResult, JobSpec, JobStatus
from finepoint.errors import ConfigurationError, InputError, JobError
from finepoint.events import parse
from finepoint.files import write_bytes, write_json
from finepoint.models.building import versions

OnEvent = Callable[[dict[str, Any]], None]
# As SageMaker does: a training job has two minutes between SIGTERM and SIGKILL.
_GRACE_SECONDS = 120.0
_TAIL_LINES = 40


def run_job(folder: Path, spec: JobSpec, on_event: OnEvent | None = None) -> JobResult:
    """Run a job to its end and return what became of it; `job.json` in its folder says so too.

    The process finds the container contract, its output goes to `logs.txt`, and where it fails its last
    words are in `output/failure`. An interrupt (Ctrl-C) is passed on, and the job ends as `Stopped`.

    Args:
        folder: the job's; what is there (checkpoints) is gone on from.
        spec: what to run.
        on_event: called with each event that the process emits.

    Raises:
        InputError: the process says (exit code 2) that what it was given cannot be used.
        JobError: it failed otherwise; the message has its last words.
        ConfigurationError: another process is running this job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigurationError(f"{folder} is being worked on by another process; wait for it, or stop it") from None
    with lock:
        result = _run(folder, spec, on_event)
    if result.status == "Stopped":
        raise KeyboardInterrupt
    if result.exit_code == 2:
        raise InputError(result.failure)
    if result.status == "Failed":
        raise JobError(f"job {spec.name} failed ({_how_it_ended(result.exit_code)}). {result.failure}")
    return result


def _run(folder: Path, spec: JobSpec, on_event: OnEvent | None) -> JobResult:
    lay_out(folder, spec)
    started, begin = _now(), time.perf_counter()
    _write_record(folder, spec, "InProgress", started)
    with (folder / "logs.txt").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command(spec),
            cwd=folder,
            env=variables(folder.resolve(), spec),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        stopped = False
        try:
            _follow(process, log.write, tail, on_event)
        except KeyboardInterrupt:
            stopped = True
        finally:
            _stop(process)
            log.flush()
    status: JobStatus = "Stopped" if stopped else "Completed" if process.returncode == 0 else "Failed"
    failure = _last_words(tail, folder) if status == "Failed" else ""
    if failure:
        write_bytes(folder / "output" / "failure", failure.encode())
    _write_record(folder, spec, status, started, process.returncode)
    return JobResult(status, process.returncode, folder, failure, time.perf_counter() - begin)


def _follow(
    process: subprocess.Popen[str], write: Callable[[str], Any], tail: deque[str], on_event: OnEvent | None
) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        event = parse(line)
        if event is None:
            tail.append(line.rstrip("\n"))
            write(line)
        elif on_event is not None:
            on_event(event)
    process.wait()


def _stop(process: subprocess.Popen[str]) -> None:
    """End the process and what it started, if it still runs."""
    if process.poll() is not None:
        return
    _signal(process, signal.SIGTERM)
    timer = threading.Timer(_GRACE_SECONDS, _signal, (process, signal.SIGKILL))
    timer.start()
    try:
        process.wait()
    finally:
        timer.cancel()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _last_words(tail: deque[str], folder: Path) -> str:
    lines = [line for line in tail if line.strip()]
    for place in range(len(lines) - 1, -1, -1):
        if lines[place].startswith("error: "):
            return "\n".join(lines[place:]).removeprefix("error: ")
    words = "\n".join(lines[-15:]) or "It printed nothing."
    return f"Its log is {folder / 'logs.txt'}; it ends:\n{words}"


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (", which is how a system out of memory ends a process" if code == -9 else "")


def _write_record(folder: Path, spec: JobSpec, status: JobStatus, started: str, exit_code: int | None = None) -> None:
    write_json(
        folder / "job.json",
        {
            "schema_version": 1,
            "spec": spec.to_json(),
            "status": status,
            "exit_code": exit_code,
            "started_at": started,
            "finished_at": None if status == "InProgress" else _now(),
            "pid": os.getpid(),
            "versions": versions(),
        },
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
