"""The processes of a job, workers included: their processor time, memory, files and input/output."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

import psutil

from finepoint.profiler.kernel import kernel_text

# Reading a large process's PSS walks its page tables (milliseconds), so that it is done seldom, and the more seldom the
# longer it takes.
_PSS_SECONDS, _PSS_SHARE = 10.0, 0.0005
# So is looking through all of the machine's processes for the job's. Where the system tells of children, those of a
# process's main thread, a change of them is seen at once.
_TREE_SECONDS, _TREE_SECONDS_TOLD = 2.0, 10.0
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, OSError)
# Where /proc/PID/stat has, behind the name, the processor times and when the process started (proc(5)).
_USER, _STARTED = 11, 19
_TICKS = os.sysconf("SC_CLK_TCK")
_STATUS = re.compile(r"\n(VmRSS|Threads|(?:non)?voluntary_ctxt_switches):\s+(\d+)")
_SWITCHES = {
    "voluntary_switches_per_second": "voluntary_ctxt_switches",
    "involuntary_switches_per_second": "nonvoluntary_ctxt_switches",
}


class ProcessReader:
    """Reads a process and all its descendants; rates are since the look before.

    Args:
        pid: the root of the tree.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._main = _process(self._root)
        self._known: dict[int, _Process] = {}
        self._found: list[psutil.Process] = []
        self._found_at = -math.inf
        self._children: list[str | None] = []
        self._whole: tuple[float, float] | None = None
        self.names: dict[int, str] = {}
        self.pids: set[int] = {pid}

    def alive(self) -> bool:
        """Whether the root still runs; a zombie does not."""
        try:
            return self._main.alive()
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
            try:
                if known is None or known.process != process:
                    if not process.is_running():
                        continue  # it was there when the tree was looked through; its number may be another's now
                    known = self._known[process.pid] = _process(process)
                    self.names[process.pid] = _name(process)
                    self.pids.add(process.pid)
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


@dataclass(frozen=True)
class _Look:
    """A process at one moment; `whole` is its processor time and that of its children that have ended."""

    at: float
    whole: float
    rss_bytes: float
    threads: float
    counters: dict[str, float]


class _Process:
    """A process, as psutil tells of it on any system."""

    def __init__(self, process: psutil.Process) -> None:
        self.process, self.pid = process, int(process.pid)
        self._pss, self._pss_due = float("nan"), 0.0
        self._before: _Look | None = None

    @property
    def whole(self) -> float:
        return self._before.whole if self._before else 0.0

    def alive(self) -> bool:
        return bool(self.process.is_running()) and self.process.status() != psutil.STATUS_ZOMBIE

    def look(self) -> _Look:
        with self.process.oneshot():
            at, times, switches = time.perf_counter(), self.process.cpu_times(), self.process.num_ctx_switches()
            rss, threads = self.process.memory_info().rss, self.process.num_threads()
        counters = {
            "cpu": times.user + times.system,
            "voluntary_switches_per_second": switches.voluntary,
            "involuntary_switches_per_second": switches.involuntary,
        }
        with contextlib.suppress(AttributeError, OSError, psutil.Error):  # not on this system, or not ours to see
            done = self.process.io_counters()
            counters |= _moved(done.read_bytes, done.write_bytes, getattr(done, "read_chars", done.read_bytes))
        return _Look(at, sum(times[:4]), rss, threads, counters)

    def row(self, root: int) -> dict[str, float]:
        now = self.look()
        before, self._before = self._before or now, now
        seconds = max(now.at - before.at, 1e-9)
        if now.at >= self._pss_due:
            began = time.perf_counter()
            self._pss = _pss(self.pid)
            self._pss_due = now.at + max(_PSS_SECONDS, (time.perf_counter() - began) / _PSS_SHARE)
        return {
            "pid": float(self.pid),
            "worker": float(self.pid != root),
            "rss_bytes": float(now.rss_bytes),
            "pss_bytes": self._pss,
            "threads": float(now.threads),
            "open_files": _open_files(self.pid),
        } | {name: max(value - before.counters.get(name, value), 0) / seconds for name, value in now.counters.items()}


class _LinuxProcess(_Process):
    """The same from three files, in half the time."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(process)
        self._started = self._stat()[_STARTED]

    def alive(self) -> bool:
        stat = self._stat()
        return stat[_STARTED] == self._started and stat[0] not in "ZX"

    def look(self) -> _Look:
        at, stat = time.perf_counter(), self._stat()
        if stat[_STARTED] != self._started:
            raise psutil.NoSuchProcess(self.pid)  # its number went to another
        user, system, *of_children = (int(ticks) / _TICKS for ticks in stat[_USER : _USER + 4])
        status = dict(_STATUS.findall(kernel_text(f"/proc/{self.pid}/status")))
        counters = {"cpu": user + system} | {name: float(status[kept]) for name, kept in _SWITCHES.items()}
        with contextlib.suppress(OSError):  # not ours to see
            words = kernel_text(f"/proc/{self.pid}/io").split()
            done = dict(zip(words[::2], map(int, words[1::2]), strict=True))
            counters |= _moved(done["read_bytes:"], done["write_bytes:"], done["rchar:"])
        # One that has ended, and was not waited for, has no memory.
        rss = float(status.get("VmRSS", 0)) * 1024
        return _Look(at, user + system + sum(of_children), rss, float(status["Threads"]), counters)

    def _stat(self) -> list[str]:
        try:
            text = kernel_text(f"/proc/{self.pid}/stat")
        except (FileNotFoundError, ProcessLookupError) as error:
            raise psutil.NoSuchProcess(self.pid) from error
        # The name before these stands in brackets, and may hold spaces and brackets.
        return text.rpartition(")")[2].split()


# The one place where systems differ.
_process = _LinuxProcess if sys.platform == "linux" else _Process


def _moved(read: float, written: float, read_chars: float) -> dict[str, float]:
    return {
        "read_bytes_per_second": read,
        "write_bytes_per_second": written,
        # Also what came from the page cache: what a data loader reads after the first epoch.
        "read_chars_per_second": read_chars,
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
        return kernel_text(f"/proc/{pid}/task/{pid}/children")
    except OSError:
        return None


def _pss(pid: int) -> float:
    """Return a process's memory with shared pages divided by their users, or NaN where the system does not say."""
    try:
        text = kernel_text(f"/proc/{pid}/smaps_rollup")
    except OSError:
        return float("nan")
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024.0
    return float("nan")


def _open_files(pid: int) -> float:
    try:
        return float(len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 - a number, not paths
    except OSError:
        return float("nan")


def _name(process: psutil.Process) -> str:
    try:
        words: list[Any] = process.cmdline() or [process.name()]
    except _GONE:
        return "?"
    return " ".join(map(str, words))[:200]
