"""Running a script under the profiler: the launcher that attaches, samples, and leaves a job's folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finepoint.attaching import attached_processes, environment_for, why_not_attached
from finepoint.errors import ConfigurationError, InputError
from finepoint.files import make_folder, write_json
from finepoint.profiler.sampling import DEFAULT_INTERVAL_MS, check_interval, sampled

PROFILER_OUTPUT = "profiler-output"
_ATTACHMENT = "finepoint.profiler.attachment:attach"
# As SageMaker does: between SIGTERM and SIGKILL.
_GRACE_SECONDS = 120.0


@dataclass(frozen=True)
class ProfiledRun:
    """What became of a script that ran under the profiler.

    Args:
        folder: the job's.
        exit_code: the script's; negative for a signal.
        not_attached: why its steps were not seen; empty where they were.
    """

    folder: Path
    exit_code: int
    not_attached: str


def profiler_environment(
    output: Path, base: Mapping[str, str] | None = None, *, profile_steps: int = 0
) -> dict[str, str]:
    """Return the environment of a process whose steps are to be recorded.

    Args:
        output: the job's `profiler-output`.
        base: the environment to start from; by default this process's.
        profile_steps: of the torch.profiler window; 0 for none.
    """
    settings = {"FINEPOINT_PROFILER_DIR": str(output.absolute()), "FINEPOINT_PROFILE_STEPS": str(profile_steps)}
    return environment_for([_ATTACHMENT], output / "attached", settings, base)


def profile_script(
    command: Sequence[str],
    folder: Path,
    *,
    interval_ms: int = DEFAULT_INTERVAL_MS,
    profile_steps: int = 0,
    environment: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> ProfiledRun:
    """Run a Python script under the profiler, its output where ours goes, and return what became of it.

    Args:
        command: the script and its arguments.
        folder: the job's; new or empty.
        interval_ms: between two samples of the machine.
        profile_steps: of the torch.profiler window; 0 for none.
        environment: of the script; by default this process's.
        quiet: put the script's output into `logs.txt` only.

    Raises:
        InputError: there is no such script.
        ConfigurationError: the folder is in use or cannot be made, or a number is out of its range.
    """
    script = Path(command[0])
    mistakes = []
    if not script.is_file():
        raise InputError(f"{script} is not a file; give the script that you would give to python")
    if (folder / PROFILER_OUTPUT).is_dir() and any((folder / PROFILER_OUTPUT).iterdir()):
        mistakes.append(f"{folder} holds a job already; choose another --job")
    if profile_steps < 0:
        mistakes.append(f"profile-steps is {profile_steps}; it must be 0 (no window) or more")
    if mistakes:
        raise ConfigurationError(mistakes)
    check_interval(interval_ms)
    output = folder / PROFILER_OUTPUT
    make_folder(output, "--job")
    full = [sys.executable, str(script), *command[1:]]
    record = {"schema_version": 1, "command": full, "started_at": _now(), "working_directory": str(Path.cwd())}
    write_json(folder / "job.json", {**record, "status": "InProgress"})
    with (folder / "logs.txt").open("wb") as log:
        process = subprocess.Popen(
            full,
            env=profiler_environment(output, environment, profile_steps=profile_steps),
            stdout=log if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
        )
        with sampled(output, process.pid, interval_ms=interval_ms) as sampler:
            code = _wait(process)
            sampler.ended(code)
    if not (output / "sampler.json").is_file():  # the script was over before the sampler could look at it
        write_json(output / "sampler.json", {"interval_ms": interval_ms, "started_at": time.time(), "gpus": []})
    status = "Completed" if code == 0 else "Failed"
    write_json(folder / "job.json", {**record, "status": status, "exit_code": code, "finished_at": _now()})
    return ProfiledRun(folder, code, why_no_steps(output / "attached"))


def why_no_steps(marks: Path) -> str:
    """Return, after a job, why nothing saw its steps; empty where something could.

    Args:
        marks: the folder in which attached processes left theirs.
    """
    if attached_processes(marks):
        return why_not_attached(marks)
    return (
        "no process of it imported torch with finepoint at hand. The script may not have imported torch, or not have "
        "come so far; or what did import it was started with `python -I`, or with a Python in which finepoint is not "
        "installed"
    )


def new_job_folder(script: Path, parent: Path) -> Path:
    """Return a folder for a job of a script that is not there yet."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"{script.stem}-{stamp}"
    number = 1
    folder = parent / name
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the script; Ctrl-C reaches it too (it is in our group), and it is given time to end."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            return process.wait(_GRACE_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.kill(process.pid, signal.SIGKILL)
            return process.wait()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
