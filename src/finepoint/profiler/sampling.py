"""Sampling a job from beside it: what a supervisor wraps around its child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finepoint.errors import ConfigurationError
from finepoint.files import write_json
from finepoint.profiler.ending import judge_ending

DEFAULT_INTERVAL_MS = 500
_SHORTEST_MS, _LONGEST_MS = 100, 60_000
# How long the sampler may take to seal its last segment.
_FINISH_SECONDS = 10.0


class SamplerHandle:
    """The sampler process, as its parent sees it."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    @property
    def pid(self) -> int:
        """The sampler's process."""
        return self._process.pid

    def ended(self, exit_code: int) -> bool:
        """Tell the sampler how the job ended (negative for a signal), and wait until it has noted that.

        Where it cannot, that is noted here.

        Returns:
            Whether it lasted to the end.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"exit_code": exit_code}) + "\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # the job was over before the sampler could look at it, or the sampler was killed
        self.wait(_FINISH_SECONDS)
        ending = self._folder / "ending.json"
        if not ending.is_file():
            write_json(ending, {**judge_ending(exit_code).to_json(), "at": time.time()})
        return self._process.returncode == 0

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the sampler has noted the end of the job; after `seconds` it is killed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def sampled(folder: Path, pid: int, *, interval_ms: int = DEFAULT_INTERVAL_MS) -> Iterator[SamplerHandle]:
    """Sample a process and its descendants while the block runs.

    The sampler is a process of its own, so that it neither slows the job's threads nor dies with them. Call
    `ended` with the exit code inside the block; without it the sampler goes on until the process is gone.

    Args:
        folder: a job's `profiler-output`.
        pid: the job's process.
        interval_ms: between two samples, 100 to 60,000.

    Raises:
        ConfigurationError: the interval is out of its range.
    """
    check_interval(interval_ms)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "finepoint.profiler.sampler", str(folder), str(pid)]
    # What attaches to the job's own Python must not attach to its sampler.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FINEPOINT_ATTACH")}
    process = subprocess.Popen(
        [*command, "--interval-ms", str(interval_ms)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the job; the sampler sees it end
    )
    try:
        yield SamplerHandle(process, folder)
    finally:
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        if process.poll() is None:  # it sees the job end by itself; so that it is no zombie then
            threading.Thread(target=process.wait, daemon=True).start()


def check_interval(interval_ms: int) -> None:
    """Refuse an interval that is out of its range.

    Raises:
        ConfigurationError: it is.
    """
    if not _SHORTEST_MS <= interval_ms <= _LONGEST_MS:
        raise ConfigurationError(
            f"the sampling interval is {interval_ms} ms; it must be {_SHORTEST_MS} to {_LONGEST_MS:,} ms"
        )
