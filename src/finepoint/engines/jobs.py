"""The jobs on this machine: naming, starting beside this process, finding, following, waiting, stopping, removing."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from finepoint.engines.local import STOPPED, Watcher
from finepoint.engines.records import RECORD, JobFolder, in_cloud, supervisor_of
from finepoint.engines.spec import JobSpec
from finepoint.engines.supervisor import Supervisor
from finepoint.errors import ConfigurationError, JobError, NotFoundError

_POLL_SECONDS = 0.1
_START_SECONDS = 120.0
LOST = "the process that watched it was killed; the same command goes on from its checkpoints"


def job_name(stem: str, given: str | None = None) -> str:
    """Return a job's name: the given one, or one made from a stem and the time.

    >>> job_name("hpo.py").startswith("hpo-")
    True
    """
    if given is not None:
        return given
    plain = re.sub(r"[^A-Za-z0-9]+", "-", stem.removesuffix(".py").removesuffix(".sh")).strip("-")[:40] or "job"
    return f"{plain}-{datetime.now().astimezone().strftime('%Y-%m-%d-%H-%M-%S-%f')[:-3]}"


def find_job(given: str | Path, directory: Path) -> JobFolder:
    """Return the job that a name or a path means; `RUN/training` is the training job of a run.

    Args:
        given: its name or folder.
        directory: that holds jobs and runs.

    Raises:
        NotFoundError: there is none; the latest ones are named.
    """
    for path in (Path(given), directory / str(given)):
        if (path / RECORD).is_file():
            return JobFolder(path)
    known = [folder.path.name for folder in list_jobs(directory)][:5]
    hint = f"the latest are {', '.join(known)}" if known else f"there are none in {directory}"
    raise NotFoundError(f"no job {str(given)!r}; {hint} (`finepoint runs` lists them)")


def list_jobs(directory: Path) -> list[JobFolder]:
    """Return the jobs that are no part of a run, the latest first."""
    found = [JobFolder(path.parent) for path in directory.glob(f"*/{RECORD}")]
    return sorted(found, key=lambda folder: folder.record.stat().st_mtime, reverse=True)


def state_of(folder: JobFolder) -> dict[str, Any]:
    """Return a job's record; one whose supervisor was killed is shown as failed.

    Raises:
        InputError: the record is damaged.
    """
    record = folder.read()
    if record["status"] == "InProgress" and not in_cloud(folder.path) and supervisor_of(record) is None:
        return {**record, "status": "Failed", "failure": LOST}
    return record


def start(folder: Path, spec: JobSpec) -> JobFolder:
    """Start a job that goes on when this process has ended, and return once it is under way.

    Raises:
        ConfigurationError: a job is running in that folder.
        JobError: its supervisor could not be started.
    """
    job = JobFolder(folder)
    if job.record.is_file() and state_of(job)["status"] == "InProgress":
        raise ConfigurationError(f"job {folder.name} is running; wait for it, or stop it (`finepoint stop`)")
    folder.mkdir(parents=True, exist_ok=True)
    job.begin(spec, starting=True)
    log = folder / "supervisor.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "finepoint.engines", str(folder.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        record = job.read()
        if not record["starting"] or record["status"] != "InProgress":
            threading.Thread(target=process.wait, daemon=True).start()  # so that it is no zombie after its end
            return job
        if ended:
            break
        time.sleep(_POLL_SECONDS)
    process.kill()
    process.wait()
    words = log.read_text(errors="replace").strip().removeprefix("error: ")
    job.finish("Failed", failure=words)
    raise JobError(f"job {folder.name} could not be started: {words or f'its supervisor wrote nothing to {log}'}")


def wait(job: JobFolder) -> dict[str, Any]:
    """Wait until a job has ended, and return its record."""
    while (record := state_of(job))["status"] == "InProgress":
        time.sleep(_POLL_SECONDS)
    return record


def stop(job: JobFolder) -> dict[str, Any]:
    """Stop a job, by SIGTERM and after its grace time by SIGKILL, and return its record.

    Raises:
        ConfigurationError: it is not running.
    """
    while (record := state_of(job))["status"] == "InProgress" and record.get("starting"):
        time.sleep(_POLL_SECONDS)  # whoever starts it is not to be ended, but its supervisor
    process = supervisor_of(record) if record["status"] == "InProgress" else None
    if process is None:
        raise ConfigurationError(f"job {job.path.name} is not running; it is {record['status']}")
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
    wait(job)
    if job.read()["status"] == "InProgress":  # the signal came before anything was there to take note of it
        job.finish("Stopped", failure=STOPPED)
    return job.read()


def remove(folder: Path) -> None:
    """Remove a job's or a run's folder; what its channels link to is left alone.

    Raises:
        ConfigurationError: a job in it is running.
    """
    for record in folder.rglob(RECORD):
        if state_of(JobFolder(record.parent))["status"] == "InProgress":
            raise ConfigurationError(f"job {record.parent.name} is running; stop it first (`finepoint stop`)")
    shutil.rmtree(folder)


def read_log(job: JobFolder, *, follow: bool = False) -> Iterator[str]:
    """Yield the lines of a job's log; with `follow`, go on until the job has ended."""
    while follow and not job.logs.is_file() and state_of(job)["status"] == "InProgress":
        time.sleep(_POLL_SECONDS)
    if not job.logs.is_file():
        return
    with job.logs.open(encoding="utf-8", errors="replace") as log:
        rest = ""
        while True:
            # Whether it has ended is asked before reading, so that nothing printed at the end is missed.
            ended = not follow or state_of(job)["status"] != "InProgress"
            for line in log:
                rest += line
                if rest.endswith("\n"):
                    yield rest
                    rest = ""
            if ended:
                break
            time.sleep(_POLL_SECONDS)
        if rest:
            yield rest


@contextmanager
def stopping_on_request(watcher: Watcher) -> Iterator[Watcher]:
    """Let `finepoint stop` end the job that is run within: SIGTERM to this process stops it in good order."""
    supervisors: list[Supervisor] = []
    on_start = watcher.on_start

    def started(supervisor: Supervisor) -> None:
        supervisors.append(supervisor)
        on_start(supervisor)

    def asked(number: int, frame: FrameType | None) -> None:
        if not supervisors:
            raise SystemExit(128 + number)
        supervisors[-1].stop(STOPPED)

    watcher.on_start = started
    before = signal.signal(signal.SIGTERM, asked)
    try:
        yield watcher
    finally:
        signal.signal(signal.SIGTERM, before)
        watcher.on_start = on_start
