"""The sampler: a process beside a job that records what the machine and the job's processes do.

`python -m finepoint.profiler.sampler FOLDER PID --interval-ms 500` is started by `finepoint.profiler.sampling`. It
outlives the job, is told the exit code on its standard input, and notes how the job ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from finepoint.files import write_json
from finepoint.profiler.cgroups import control_group_of
from finepoint.profiler.ending import Ending, judge_ending, kernel_record, killed_for_memory
from finepoint.profiler.machine import MachineReader
from finepoint.profiler.nvml import DeviceReader, NvmlError, nvml_driver
from finepoint.profiler.processes import ProcessReader
from finepoint.profiler.segments import TableWriter

SYSTEM, PROCESSES = "system", "processes"
SAMPLER_FILE, ENDING_FILE = "sampler.json", "ending.json"
# Under this much work a job counts as doing nothing: cores, bytes a second, and times a second that it was woken.
_IDLE_CPU, _IDLE_BYTES, _IDLE_WAKES = 0.02, 10_000.0, 10.0
# A job that does nothing for so long hangs.
HANG_SECONDS = 60.0
# After a parent that went away without a word, the job is watched for its end no closer than this.
_EXIT_WAIT_SECONDS = 2.0


class Sampler:
    """Samples the machine and one process tree into a folder.

    Args:
        folder: a job's `profiler-output`.
        pid: the root of the job's processes.
        interval_ms: between two samples.
        devices: reads the NVIDIA devices, where there are any.

    Raises:
        psutil.NoSuchProcess: there is no process of that number.
    """

    def __init__(self, folder: Path, pid: int, interval_ms: int, devices: DeviceReader | None = None) -> None:
        self.folder, self.pid, self.interval_ms = folder, pid, interval_ms
        self._processes, self._machine, self._devices = ProcessReader(pid), MachineReader(), devices
        self._group = control_group_of(pid)
        self._kills, self._started, self._started_at = self._group.memory_kills(), time.monotonic(), time.time()
        self._kills_seen, self._throttled = self._kills, self._group.throttled_seconds()
        self._active_at = self._seen_active = time.monotonic()
        self._system = TableWriter(folder / SYSTEM, str(pid))
        self._tree = TableWriter(folder / PROCESSES, str(pid))
        self.samples = 0
        self._describe(devices)

    @property
    def hung_seconds(self) -> float:
        """How long the job has done nothing, once that is long enough to be called a hang; else 0."""
        idle = time.monotonic() - self._active_at
        return idle if idle >= max(HANG_SECONDS, 3 * self.interval_ms / 1000) else 0.0

    def alive(self) -> bool:
        """Whether the job's process still runs."""
        return self._processes.alive()

    def sample(self) -> dict[str, float]:
        """Take a sample, add it to the tables, and return the row of the system."""
        now = time.time()
        # What a look sees counts once the job has outlived it: being killed is work too, of the kernel's.
        self._active_at = self._seen_active
        machine = self._machine.read()
        sums, rows = self._processes.read()
        row = {"time": now, **machine, **sums, **self._limits(), **(self._devices.read() if self._devices else {})}
        # The sampler's own work is not a neighbour's.
        row["sampler_cpu_seconds"] = time.process_time()
        if row["job_cpu"] > _IDLE_CPU or _job_bytes(row) > _IDLE_BYTES:
            self._seen_active = time.monotonic()
        row["hung_seconds"] = self.hung_seconds
        self._system.append(row)
        for pid, name in self._processes.names.items():
            self._tree.note(f"name/{pid}", name)
        self._processes.names.clear()
        self._tree.append(*({"time": now, **process} for process in rows))
        self.samples += 1
        return row

    def finish(self, exit_code: int | None) -> Ending:
        """Seal what was sampled, and note how the job ended."""
        hung = self.hung_seconds
        self._limits()
        ending = judge_ending(
            exit_code,
            killed_by_kernel=killed_for_memory(kernel_record(), since=self._started) if exit_code != 0 else (),
            pids=self._processes.pids,
            memory_kills=self._kills_seen - self._kills,
            memory_limit=self._group.memory_limit(),
            hung_seconds=hung,
        )
        self.seal()
        write_json(
            self.folder / ENDING_FILE,
            {
                **ending.to_json(),
                "at": time.time(),
                "samples": self.samples,
                "seconds": round(time.monotonic() - self._started, 3),
                "sampler_cpu_seconds": round(time.process_time(), 3),
            },
        )
        return ending

    def seal(self) -> None:
        """Put what was sampled on disk."""
        self._system.seal()
        self._tree.seal()

    def _limits(self) -> dict[str, float]:
        """Return what the control group counted since the last look; its folder may go with the job."""
        group = control_group_of(self.pid)
        # It moved itself, or its launcher did. One that is dying, or dead and not waited for, is in the root's groups.
        if group.within_root and group != self._group and self.alive():
            self._group = group
            self._kills_seen = self._kills = group.memory_kills()
            self._throttled = group.throttled_seconds()
            self._describe(self._devices)
        with contextlib.suppress(OSError):
            self._kills_seen = max(self._kills_seen, self._group.memory_kills())
        throttled, before = self._group.throttled_seconds(), self._throttled
        self._throttled = max(throttled, before)
        return {
            "throttled_seconds": max(throttled - before, 0.0),
            "memory_kills": float(self._kills_seen - self._kills),
        }

    def _describe(self, devices: DeviceReader | None) -> None:
        write_json(
            self.folder / SAMPLER_FILE,
            {
                "schema_version": 1,
                "pid": self.pid,
                "sampler_pid": os.getpid(),
                "interval_ms": self.interval_ms,
                "started_at": self._started_at,
                "cores": psutil.cpu_count() or 1,
                "usable_cores": len(os.sched_getaffinity(0))
                if hasattr(os, "sched_getaffinity")
                else psutil.cpu_count(),
                "cpu_limit_cores": self._group.cpu_limit(),
                "memory_total_bytes": psutil.virtual_memory().total,
                "memory_limit_bytes": self._group.memory_limit(),
                "gpus": devices.describe() if devices else [],
            },
        )


@contextmanager
def devices_here(pid: int) -> Iterator[DeviceReader | None]:
    """Yield what reads the NVIDIA devices that a process may use, or None where there is no driver."""
    with ExitStack() as stack:
        try:
            devices: DeviceReader | None = DeviceReader(stack.enter_context(nvml_driver()), visible_devices(pid))
        except NvmlError:
            devices = None
        yield devices


def visible_devices(pid: int) -> str | None:
    """Return a process's CUDA_VISIBLE_DEVICES as it was started; None where it is not set, or not to be seen."""
    try:
        found: str | None = psutil.Process(pid).environ().get("CUDA_VISIBLE_DEVICES")
    except (psutil.Error, OSError):
        return None
    return found


def sample_until_end(
    sampler: Sampler, *, told: Callable[[float], int | None], seconds: float | None = None
) -> tuple[int | None, bool]:
    """Sample until the job has ended; return its exit code where somebody told it, and whether it has ended.

    Args:
        sampler: what samples.
        told: waits up to so many seconds for word of the end, and returns an exit code or None.
        seconds: stop after so long.
    """
    interval = sampler.interval_ms / 1000
    begin = time.monotonic()
    due = begin
    while seconds is None or time.monotonic() - begin < seconds:
        sampler.sample()
        # Samples that are late (a suspended laptop) are left out, not caught up on.
        due = max(due + interval, time.monotonic())
        code = told(max(due - time.monotonic(), 0.0))
        if code is not None:
            return code, True
        if not sampler.alive():
            return told(_EXIT_WAIT_SECONDS), True
    return None, False


def _job_bytes(row: dict[str, float]) -> float:
    """Return the bytes a second that the job reads, writes, and may receive.

    What arrives over the network is known of the machine only: it is the job's where something wakes the job.
    """
    moved = row.get("job_read_chars_per_second", 0.0) + row.get("job_write_bytes_per_second", 0.0)
    woken = row.get("job_voluntary_switches_per_second", 0.0) > _IDLE_WAKES
    return moved + row.get("network_received_bytes_per_second", 0.0) * woken


class _Parent:
    """Listens for the exit code that the parent writes to our standard input."""

    def __init__(self) -> None:
        self._open = True

    def __call__(self, seconds: float) -> int | None:
        if not self._open:
            time.sleep(seconds)
            return None
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        if not ready:
            return None
        line = sys.stdin.readline()
        if not line:
            self._open = False  # the parent is gone; the job may not be
            return None
        code: Any = json.loads(line)["exit_code"]
        return int(code)


def main() -> None:
    """Sample until the job ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("pid", type=int)
    parser.add_argument("--interval-ms", type=int, default=500)
    given = parser.parse_args()
    with devices_here(given.pid) as devices:
        try:
            sampler = Sampler(given.folder, given.pid, given.interval_ms, devices)
        except psutil.NoSuchProcess:
            return  # it ended before it could be looked at
        code, _ = sample_until_end(sampler, told=_Parent())
        sampler.finish(code)


if __name__ == "__main__":
    main()
