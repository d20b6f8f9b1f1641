"""The processes of a job, workers included: their processor time, memory, files and input/output."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import psutil

# Reading a large process's PSS walks its page tables (milliseconds), so that it is done seldom, and the more seldom the
# longer it takes.
_PSS_SECONDS, _PSS_SHARE = 5.0, 0.001
# So is looking through all of the machine's processes for the job's. Where the system tells of children, those of a
# process's main thread, a change of them is seen at once.
_TREE_SECONDS, _TREE_SECONDS_TOLD = 2.0, 10.0
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError)


class ProcessReader:
    """Reads a process and all its descendants; rates are since the look before.

    Args:
        pid: the root of the tree.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._known: dict[int, _Known] = {}
        self._found: list[psutil.Process] = []
        self._found_at = -math.inf
        self._children: list[str | None] = []
        self._whole: tuple[float, float] | None = None
        self.names: dict[int, str] = {}
        self.pids: set[int] = {pid}

    def alive(self) -> bool:
        """Whether the root still runs; a zombie does not."""
        try:
            return bool(self._root.is_running()) and self._root.status() != psutil.STATUS_ZOMBIE
        except _GONE:
            return False

    def read(self) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Return the sums of the tree, and a row for each process.

        `cpu` is in cores, `*_bytes` in bytes, `*_per_second` rates. What a process did before it was first seen and
        after it was last seen is in `job_cpu` alone.
        """
        rows = []
        for process in self._tree():
            known = self._known.get(process.pid)
            if known is None or known.process != process:
                known = self._known[process.pid] = _Known(process)
                self.names[process.pid] = _name(process)
                self.pids.add(process.pid)
            try:
                with known.process.oneshot():
                    rows.append(known.row(self._root.pid))
            except _GONE:
                continue
        seen = {int(row["pid"]) for row in rows}
        self._known = {pid: known for pid, known in self._known.items() if pid in seen}
        return {**_sums(rows), "job_cpu": self._cores()}, rows

    def _cores(self) -> float:
        """Return how many cores the tree kept busy since the look before.

        A process that ends hands its time on to the one that waited for it, so that none is lost between two looks.
        """
        now, whole = time.perf_counter(), sum(known.whole for known in self._known.values())
        before, self._whole = self._whole, (now, whole)
        return max(whole - before[1], 0.0) / max(now - before[0], 1e-9) if before else 0.0

    def _tree(self) -> list[psutil.Process]:
        now, children = time.monotonic(), [_children(process.pid) for process in self._found]
        rest = _TREE_SECONDS_TOLD if children and None not in children else _TREE_SECONDS
        if now - self._found_at >= rest or children != self._children:
            self._found_at = now
            try:
                # The sampler may be a child of what it samples, and is none of its work.
                below = (child for child in self._root.children(recursive=True) if child.pid != os.getpid())
                self._found = [self._root, *below]
            except _GONE:
                self._found = []
            self._children = [_children(process.pid) for process in self._found]
        return self._found


class _Known:
    """A process that was seen before, with its counters then."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self._at, self._counters = time.perf_counter(), _counters(process)
        self._pss, self._pss_due = float("nan"), 0.0
        # Its processor time, and that of its children that have ended.
        self.whole = 0.0

    def row(self, root: int) -> dict[str, float]:
        now, counters = time.perf_counter(), _counters(self.process)
        self.whole = counters.pop("whole", self.whole)
        seconds = max(now - self._at, 1e-9)
        rates = {name: max(value - self._counters.get(name, value), 0) / seconds for name, value in counters.items()}
        self._at, self._counters = now, counters
        if now >= self._pss_due:
            self._pss = _pss(self.process.pid)
            self._pss_due = now + max(_PSS_SECONDS, (time.perf_counter() - now) / _PSS_SHARE)
        return {
            "pid": float(self.process.pid),
            "worker": float(self.process.pid != root),
            "rss_bytes": float(self.process.memory_info().rss),
            "pss_bytes": self._pss,
            "threads": float(self.process.num_threads()),
            "open_files": _open_files(self.process),
            **rates,
        }


def _counters(process: psutil.Process) -> dict[str, float]:
    try:
        with process.oneshot():
            times, switches = process.cpu_times(), process.num_ctx_switches()
            found = {
                "cpu": times.user + times.system,
                "whole": sum(times[:4]),
                "voluntary_switches_per_second": switches.voluntary,
                "involuntary_switches_per_second": switches.involuntary,
            }
    except _GONE:
        return {}
    try:
        done = process.io_counters()
    except (AttributeError, OSError, psutil.Error):  # not on this system, or not ours to see
        return found
    return found | {
        "read_bytes_per_second": done.read_bytes,
        "write_bytes_per_second": done.write_bytes,
        # Also what came from the page cache: what a data loader reads after the first epoch.
        "read_chars_per_second": getattr(done, "read_chars", done.read_bytes),
    }


def _sums(rows: list[dict[str, float]]) -> dict[str, float]:
    added = {
        f"job_{name}": sum(row[name] for row in rows if name in row)
        for name in (
            "rss_bytes",
            "pss_bytes",
            "threads",
            "open_files",
            "read_bytes_per_second",
            "write_bytes_per_second",
            "read_chars_per_second",
            "voluntary_switches_per_second",
            "involuntary_switches_per_second",
        )
    }
    workers = [row for row in rows if row["worker"]]
    return added | {
        "job_processes": float(len(rows)),
        "job_main_rss_bytes": sum(row["rss_bytes"] for row in rows if not row["worker"]),
        "job_main_cpu": sum(row.get("cpu", 0.0) for row in rows if not row["worker"]),
        "job_workers_cpu": sum(row.get("cpu", 0.0) for row in workers),
    }


def _children(pid: int) -> str | None:
    """Return what the system says of the children of a process's main thread; None where it does not."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return None


def _pss(pid: int) -> float:
    """Return a process's memory with shared pages divided by their users, or NaN where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return float("nan")
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024.0
    return float("nan")


def _open_files(process: psutil.Process) -> float:
    try:
        return float(len(os.listdir(f"/proc/{process.pid}/fd")))  # noqa: PTH208 - a number, not paths
    except OSError:
        return float("nan")


def _name(process: psutil.Process) -> str:
    try:
        words: list[Any] = process.cmdline() or [process.name()]
    except _GONE:
        return "?"
    return " ".join(map(str, words))[:200]
