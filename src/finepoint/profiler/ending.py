"""How a job's process ended: by itself, by a signal, for want of memory; and whether it hung before."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["completed", "failed", "signal", "out of memory", "unknown"]

# "Out of memory: Killed process 123 (python) ..." and "Memory cgroup out of memory: Killed process 123 (python)".
_KILLED = re.compile(r"out of memory: Kill(?:ed)? process (\d+)", re.IGNORECASE)
# The kernel stamps its record with a clock of its own, which runs a little apart from the monotonic one.
_CLOCK_TOLERANCE = 2.0


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Args:
        kind: `unknown` where nobody saw its exit code, as with a process that was only watched.
        sentence: the same in words, with the evidence.
        exit_code: of its process; negative for a signal; None where nobody saw it.
        signal: its name, such as `SIGKILL`.
        hung_seconds: how long nothing had happened when it ended; 0 where it did not hang.
        memory_kills: tasks of its control group that the kernel killed while it ran.
    """

    kind: Kind
    sentence: str
    exit_code: int | None = None
    signal: str | None = None
    hung_seconds: float = 0.0
    memory_kills: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return asdict(self)


def judge_ending(
    exit_code: int | None,
    *,
    killed_by_kernel: Collection[int] = (),
    pids: Collection[int] = (),
    memory_kills: int = 0,
    memory_limit: int | None = None,
    hung_seconds: float = 0.0,
) -> Ending:
    """Return how a job ended.

    Args:
        exit_code: of its process, negative for a signal, None where nobody saw it.
        killed_by_kernel: processes that the kernel's record names as killed for want of memory.
        pids: the job's own.
        memory_kills: by how many the control group's counter rose.
        memory_limit: of the control group, in bytes.
        hung_seconds: how long nothing had happened at the end.

    >>> judge_ending(-11).sentence
    'It was killed by SIGSEGV.'
    >>> judge_ending(-9, memory_kills=1, memory_limit=2**30).kind
    'out of memory'
    """
    victims = sorted(set(killed_by_kernel) & set(pids))
    number = -exit_code if exit_code is not None and exit_code < 0 else None
    name = _signal_name(number) if number is not None else None
    hung = f" Before that nothing had happened for {hung_seconds:.0f} s: it hung." if hung_seconds else ""
    facts: dict[str, Any] = {"exit_code": exit_code, "signal": name, "memory_kills": memory_kills}
    facts["hung_seconds"] = round(hung_seconds, 1)
    if victims or (memory_kills and exit_code != 0):
        evidence = (
            f"the kernel's record names process {victims[0]}" if victims else "its control group counted the kill"
        )
        reason = f"its limit of {memory_limit / 2**20:,.0f} MiB was reached" if memory_limit else "memory ran out"
        return Ending("out of memory", f"The kernel killed it, because {reason} ({evidence}).", **facts)
    if exit_code is None:
        return Ending("unknown", f"It is gone; only its parent was told how it ended.{hung}", **facts)
    if name is not None:
        return Ending("signal", f"It was killed by {name}.{hung}", **facts)
    if exit_code == 0:
        return Ending("completed", "It ended by itself, exit code 0.", **facts)
    return Ending("failed", f"It ended with exit code {exit_code}.{hung}", **facts)


def killed_for_memory(lines: Iterable[str], *, since: float = 0.0) -> list[int]:
    """Return the processes that lines of the kernel's record name as killed for want of memory.

    Args:
        lines: as `/dev/kmsg` gives them, `priority,number,microseconds,flags;text`.
        since: seconds on the clock of `time.monotonic`; earlier records are left out.

    >>> killed_for_memory(["6,1,2000000,-;Memory cgroup out of memory: Killed process 312 (python) total-vm:1kB"])
    [312]
    """
    return [
        int(found.group(1))
        for line in lines
        if (found := _KILLED.search(line)) and _seconds(line) >= since - _CLOCK_TOLERANCE
    ]


def _seconds(line: str) -> float:
    parts = line.split(";", 1)[0].split(",")
    return int(parts[2]) / 1e6 if len(parts) > 2 and parts[2].isdigit() else float("inf")


def kernel_record(path: Path = Path("/dev/kmsg")) -> list[str]:
    """Return the lines of the kernel's record, or none where it may not be read."""
    lines: list[str] = []
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return lines
    try:
        while chunk := os.read(handle, 8192):  # /dev/kmsg gives one record a read, and refuses when there is no more
            lines += chunk.decode(errors="replace").splitlines()
    except OSError:
        return lines
    finally:
        os.close(handle)
    return lines


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
