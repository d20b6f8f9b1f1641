"""What the whole machine is doing, as rates since the last look."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import psutil

from finepoint.profiler.kernel import kernel_text

# The frequency is read from a file per core; it changes slowly.
_FREQUENCY_EVERY = 10
# In the order of /proc/stat, which has guests' time behind them and in `user` already.
_SPENT = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_IDLE, _WAITING, _STEAL = _SPENT.index("idle"), _SPENT.index("iowait"), _SPENT.index("steal")
_SECTOR_BYTES, _PAGE_BYTES = 512, 4096
_SWAPPED = re.compile(r"\n(pswpin|pswpout) (\d+)")


class MachineReader:
    """Reads the machine's counters; each `read` gives rates since the one before."""

    def __init__(self) -> None:
        self._looks = 0
        self._frequency: dict[str, float] = {}
        self._before = _counters()

    def read(self) -> dict[str, float]:
        """Return a row: shares are 0 to 1, amounts in bytes, rates per second.

        `core/N` is the busy share of a core, `cpu` their mean, `cpu_iowait` the share of time that cores idled
        with a disk request under way, `cpu_steal` the share that a host gave to others.
        """
        before, now = self._before, _counters()
        self._before = now
        seconds = max(now.time - before.time, 1e-9)
        row = _core_row(before.cores, now.cores)
        row |= {
            name: (now.amounts[name] - before.amounts[name]) / seconds
            for name in now.amounts
            if name in before.amounts and now.amounts[name] >= before.amounts[name]
        }
        row |= now.levels
        if self._looks % _FREQUENCY_EVERY == 0:
            self._frequency = _frequency()
        self._looks += 1
        return row | self._frequency


@dataclass
class _Counters:
    """The machine's counters at one moment, and what it holds.

    Args:
        cores: what each core spent its time on, in the order of `_SPENT` and any unit.
    """

    cores: Mapping[str, Sequence[float]]
    amounts: dict[str, float]
    levels: dict[str, float]
    time: float = field(default_factory=time.perf_counter)


def _counters_of_psutil() -> _Counters:
    # Counters that begin again are left out of a row; psutil need not keep count of them.
    disk = psutil.disk_io_counters(nowrap=False)
    network = psutil.net_io_counters(pernic=True, nowrap=False)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    outside = [count for name, count in network.items() if name != "lo"]
    return _Counters(
        cores={
            str(number): [getattr(spent, name, 0.0) for name in _SPENT]
            for number, spent in enumerate(psutil.cpu_times(percpu=True))
        },
        amounts=_amounts(
            switches=psutil.cpu_stats().ctx_switches,
            disk=(disk.read_bytes, disk.write_bytes) if disk else None,
            network=(sum(count.bytes_recv for count in outside), sum(count.bytes_sent for count in outside)),
            swap=(swap.sin, swap.sout),
        ),
        levels=_levels(memory.total, memory.available, swap.used),
    )


def _counters_of_proc() -> _Counters:
    """Return the same in half the time: psutil reads some files twice, and takes in all that they say."""
    now = time.perf_counter()
    stat = dict(line.split(" ", 1) for line in kernel_text("/proc/stat").splitlines())
    memory = {line[0]: int(line[1]) * 1024 for line in _lines("meminfo")}
    swapped = {name: int(pages) * _PAGE_BYTES for name, pages in _SWAPPED.findall(kernel_text("/proc/vmstat"))}
    total, available = memory["MemTotal:"], memory.get("MemAvailable:", 0)
    if not 0 < available <= total:
        available = psutil.virtual_memory().available  # which has a guess for kernels that do not say
    return _Counters(
        time=now,
        cores={
            name: [int(ticks) for ticks in spent.split()[: len(_SPENT)]]
            for name, spent in stat.items()
            if name.startswith("cpu") and name != "cpu"
        },
        amounts=_amounts(
            switches=int(stat["ctxt"]),
            disk=_disk_bytes(),
            network=_network_bytes(),
            swap=(swapped.get("pswpin", 0), swapped.get("pswpout", 0)),
        )
        | {f"pressure_{name}": waited for name in ("cpu", "io", "memory") for waited in _waited(name)},
        levels=_levels(total, available, memory.get("SwapTotal:", 0) - memory.get("SwapFree:", 0)),
    )


# The one place where systems differ.
_counters = _counters_of_proc if sys.platform == "linux" else _counters_of_psutil


def _amounts(
    switches: float, disk: tuple[float, float] | None, network: tuple[float, float], swap: tuple[float, float]
) -> dict[str, float]:
    amounts = {"context_switches_per_second": switches}
    if disk:
        amounts |= {"disk_read_bytes_per_second": disk[0], "disk_write_bytes_per_second": disk[1]}
    return amounts | {
        "network_received_bytes_per_second": network[0],
        "network_sent_bytes_per_second": network[1],
        "swap_in_bytes_per_second": swap[0],
        "swap_out_bytes_per_second": swap[1],
    }


def _levels(total: float, available: float, swapped: float) -> dict[str, float]:
    return {
        "memory_used_bytes": float(total - available),
        "memory_total_bytes": float(total),
        "swap_used_bytes": float(swapped),
    }


def _lines(name: str) -> Iterator[list[str]]:
    return map(str.split, kernel_text(f"/proc/{name}").splitlines())


def _disk_bytes() -> tuple[int, int] | None:
    """Return what all disks read and wrote, or None where there are none; a disk counts for its partitions."""
    disks = [line for line in _lines("diskstats") if _is_disk(line[2])]
    if not disks:
        return None
    return sum(int(disk[5]) for disk in disks) * _SECTOR_BYTES, sum(int(disk[9]) for disk in disks) * _SECTOR_BYTES


@lru_cache
def _is_disk(name: str) -> bool:
    return Path("/sys/block", name.replace("/", "!")).exists()


def _network_bytes() -> tuple[int, int]:
    """Return what all interfaces but the machine's own received and sent."""
    received = sent = 0
    for line in kernel_text("/proc/net/dev").splitlines()[2:]:
        name, _, counts = line.rpartition(":")
        if name.strip() != "lo":
            fields = counts.split()
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent


def _core_row(before: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]]) -> dict[str, float]:
    row: dict[str, float] = {}
    busy_share, wait_share, steal_share = [], [], []
    for number, (name, new) in enumerate(now.items()):
        if name not in before:
            continue  # it was switched on just now
        spent = [max(after - earlier, 0.0) for earlier, after in zip(before[name], new, strict=True)]
        total = sum(spent) or 1e-9
        busy = 1 - (spent[_IDLE] + spent[_WAITING]) / total if total > 1e-6 else 0.0
        row[f"core/{number}"] = min(max(busy, 0.0), 1.0)
        busy_share.append(row[f"core/{number}"])
        wait_share.append(spent[_WAITING] / total)
        steal_share.append(spent[_STEAL] / total)
    count = len(busy_share) or 1
    return row | {
        "cpu": sum(busy_share) / count,
        "cpu_iowait": sum(wait_share) / count,
        "cpu_steal": sum(steal_share) / count,
    }


def _frequency() -> dict[str, float]:
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return {}
    if found is None or not found.current:
        return {}
    row = {"frequency_mhz": float(found.current)}
    return row | ({"frequency_max_mhz": float(found.max)} if found.max else {})


def _waited(resource: str) -> list[float]:
    """Return the seconds that some task waited for a resource (Linux's pressure stall information)."""
    try:
        first = kernel_text(f"/proc/pressure/{resource}").partition("\n")[0]
    except OSError:
        return []
    return [int(part.partition("=")[2]) / 1e6 for part in first.split() if part.startswith("total=")]
