"""Watching a process that runs already, from outside."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.files import make_folder
from finepoint.profiler.recording import OUTPUT
from finepoint.profiler.sampler import Sampler, devices_here, sample_until_end
from finepoint.profiler.sampling import check_interval


def watch_process(pid: int, folder: Path, *, interval_ms: int, seconds: float | None = None) -> bool:
    """Sample a running process until it ends, `seconds` have passed, or an interrupt; return whether it ended.

    Args:
        pid: the process.
        folder: a job's, new or empty.
        interval_ms: between two samples.
        seconds: stop after so long; None waits for the end.

    Raises:
        NotFoundError: there is no such process.
        ConfigurationError: a number is out of its range, or the folder is in use or cannot be made.
    """
    mistakes = []
    if pid < 1:
        mistakes.append(f"the process is {pid}; the number of a process is 1 or more")
    if seconds is not None and not seconds > 0:  # NaN is not either
        mistakes.append(f"seconds is {seconds:g}; it must be above 0")
    if mistakes:
        raise ConfigurationError(mistakes)
    check_interval(interval_ms)
    output = folder / OUTPUT
    if output.is_dir() and any(output.iterdir()):
        raise ConfigurationError(f"{folder} holds a job already; choose another --job")
    with devices_here(pid) as devices:
        try:
            psutil.Process(pid)  # before there is a folder for it
            make_folder(output, "--job")
            sampler = Sampler(output, pid, interval_ms, devices)
        except psutil.NoSuchProcess:
            raise NotFoundError(f"there is no process {pid}") from None
        ended = False
        with contextlib.suppress(KeyboardInterrupt):  # the way to stop watching
            _, ended = sample_until_end(sampler, told=_nobody_tells, seconds=seconds)
        if ended:
            sampler.finish(None)
        else:
            sampler.seal()
    return ended


def _nobody_tells(seconds: float) -> None:
    time.sleep(seconds)
