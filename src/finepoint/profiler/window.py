"""A window of steps under torch.profiler: a trace, a table of operators, a memory time line.

There is one such profiler in a process. A script that makes one itself is left to it, without a window of ours.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.autograd import profiler

from finepoint.files import atomic_path, write_json
from finepoint.patching import replace_all
from finepoint.profiler.phases import PhaseClock

TRACE_FILE, OPERATORS_FILE = "trace.json", "operators.json"
# Steps to let pass first: caches, allocators and algorithms settle in them.
_WARM_UP = 8
_OPERATORS = 200
_MEMORY_POINTS = 2_000


class Window:
    """Runs torch.profiler over some steps after the warm-up.

    Args:
        folder: a job's `profiler-output`.
        steps: how many.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps = folder, steps
        self._profile: Any = None
        self._began_at = 0
        self.done = self._making = self._left = False
        self._seen = 0
        self._unwatch = replace_all([(profiler.profile, "__init__", self._around_making)])

    def step(self, clock: PhaseClock, steps: int) -> None:
        """Begin or end the window, between two rows, after so many steps."""
        if self.done:
            clock.window = False
        elif self._profile is None:
            if steps >= _WARM_UP:
                self._begin(clock, steps)
        elif steps - self._began_at >= self._steps:
            self._end(clock, steps)

    def close(self, clock: PhaseClock, steps: int) -> dict[str, Any]:
        """End a window that the job's end came into; return the steps asked for, before it, and in it."""
        if self._profile is not None and not self.done:
            self._end(clock, steps)
        self._unwatch()
        return {"asked": self._steps, "warm_up": _WARM_UP, "steps": self._seen, "left_to_script": self._left}

    def _begin(self, clock: PhaseClock, steps: int) -> None:
        from torch.profiler import ProfilerActivity, profile, supported_activities

        clock.window = True
        clock.enter("hook")
        activities = [kind for kind in (ProfilerActivity.CPU, ProfilerActivity.CUDA) if kind in supported_activities()]  # type: ignore[no-untyped-call]
        self._profile, self._began_at, self._time = (
            profile(activities=activities, profile_memory=True),
            steps,
            time.time(),
        )
        self._making = True
        self._profile.start()
        self._making = False
        clock.leave("hook")
        clock.boundary()

    def _around_making(self, original: Callable[..., None]) -> Callable[..., None]:
        def make(made: profiler.profile, *args: Any, **kwargs: Any) -> None:
            if not (self._making or self.done):
                self.done = self._left = True
                if self._profile is not None:
                    self._profile.stop()
                    self._profile = None
                sys.stderr.write("finepoint: the script runs torch.profiler itself; the window of steps is left out\n")
            original(made, *args, **kwargs)

        return make

    def _end(self, clock: PhaseClock, steps: int) -> None:
        self.done, self._seen = True, steps - self._began_at
        seconds = time.time() - self._time
        clock.enter("hook")
        self._profile.stop()
        # Kineto wants a name in UTF-8, and adds what it likes to one without .json.
        with tempfile.TemporaryDirectory() as elsewhere, atomic_path(self._folder / TRACE_FILE) as path:
            self._profile.export_chrome_trace(written := f"{elsewhere}/{TRACE_FILE}")
            shutil.copyfile(written, path)
        write_json(
            self._folder / OPERATORS_FILE,
            {
                "steps": self._seen,
                "began_at": self._time,
                "seconds": round(seconds, 4),
                "operators": _operators(self._profile),
                "memory": _memory(self._folder / TRACE_FILE),
            },
        )
        self._profile = None
        clock.leave("hook")
        clock.boundary()
        clock.window = False


def _operators(profile: Any) -> list[dict[str, Any]]:
    rows = [
        {
            "name": event.key,
            "calls": event.count,
            "self_cpu_seconds": event.self_cpu_time_total / 1e6,
            "cpu_seconds": event.cpu_time_total / 1e6,
            "self_device_seconds": getattr(event, "self_device_time_total", 0) / 1e6,
            "self_memory_bytes": getattr(event, "self_cpu_memory_usage", 0),
        }
        for event in profile.key_averages()
    ]
    return sorted(rows, key=lambda row: -(row["self_cpu_seconds"] + row["self_device_seconds"]))[:_OPERATORS]


def _memory(trace: Path) -> list[list[float]]:
    """Return `[seconds, bytes]` of what torch's allocator held over the window."""
    content = trace.read_bytes()
    events = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)["traceEvents"]
    points = [
        (event["ts"] / 1e6, event["args"]["Total Allocated"])
        for event in events
        if event.get("name") == "[memory]" and "Total Allocated" in event.get("args", {})
    ]
    points.sort()
    every = max(len(points) // _MEMORY_POINTS, 1)
    return [[round(at - points[0][0], 6), float(held)] for at, held in points[::every]]
