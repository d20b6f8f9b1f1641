"""What the whole machine is doing, as rates since the last look."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

# The frequency is read from a file per core; it changes slowly.
_FREQUENCY_EVERY = 10


class MachineReader:
    """Reads the machine's counters; each `read` gives rates since the one before."""

    def __init__(self) -> None:
        self._looks = 0
        self._frequency: dict[str, float] = {}
        self._before = _Counters()

    def read(self) -> dict[str, float]:
        """Return a row: shares are 0 to 1, amounts in bytes, rates per second.

        `core/N` is the busy share of a core, `cpu` their mean, `cpu_iowait` the share of time that cores idled
        with a disk request under way, `cpu_steal` the share that a host gave to others.
        """
        before, now = self._before, _Counters()
        self._before = now
        seconds = max(now.time - before.time, 1e-9)
        row = _core_row(before.cores, now.cores)
        row |= {
            name: (now.amounts[name] - before.amounts[name]) / seconds
            for name in now.amounts
            if name in before.amounts and now.amounts[name] >= before.amounts[name]
        }
        memory = psutil.virtual_memory()
        row |= {
            "memory_used_bytes": float(memory.total - memory.available),
            "memory_total_bytes": float(memory.total),
            "swap_used_bytes": float(now.swap.used),
        }
        if self._looks % _FREQUENCY_EVERY == 0:
            self._frequency = _frequency()
        self._looks += 1
        return row | self._frequency


class _Counters:
    """The machine's counters at one moment."""

    def __init__(self) -> None:
        self.time = time.perf_counter()
        self.cores = psutil.cpu_times(percpu=True)
        self.amounts: dict[str, float] = {"context_switches_per_second": psutil.cpu_stats().ctx_switches}
        # Counters that begin again are left out below; psutil need not keep count of them.
        disk = psutil.disk_io_counters(nowrap=False)
        network = psutil.net_io_counters(pernic=True, nowrap=False)
        self.swap = psutil.swap_memory()
        if disk is not None:
            self.amounts |= {
                "disk_read_bytes_per_second": disk.read_bytes,
                "disk_write_bytes_per_second": disk.write_bytes,
            }
        outside = [count for name, count in network.items() if name != "lo"]
        self.amounts |= {
            "network_received_bytes_per_second": sum(count.bytes_recv for count in outside),
            "network_sent_bytes_per_second": sum(count.bytes_sent for count in outside),
            "swap_in_bytes_per_second": self.swap.sin,
            "swap_out_bytes_per_second": self.swap.sout,
        }
        self.amounts |= {f"pressure_{name}": waited for name in ("cpu", "io", "memory") for waited in _waited(name)}


def _core_row(before: list[Any], now: list[Any]) -> dict[str, float]:
    row: dict[str, float] = {}
    idle_share, wait_share, steal_share = [], [], []
    for number, (old, new) in enumerate(zip(before, now, strict=False)):
        spent = {name: max(getattr(new, name) - getattr(old, name), 0.0) for name in new._fields}
        # Linux counts guests' time in `user` already.
        total = sum(value for name, value in spent.items() if name not in ("guest", "guest_nice")) or 1e-9
        waiting = spent.get("iowait", 0.0)
        busy = 1 - (spent["idle"] + waiting) / total if total > 1e-6 else 0.0
        row[f"core/{number}"] = min(max(busy, 0.0), 1.0)
        idle_share.append(row[f"core/{number}"])
        wait_share.append(waiting / total)
        steal_share.append(spent.get("steal", 0.0) / total)
    count = len(idle_share) or 1
    return row | {
        "cpu": sum(idle_share) / count,
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
        first = Path("/proc/pressure", resource).read_text().split("\n", 1)[0]
    except OSError:
        return []
    return [int(part.partition("=")[2]) / 1e6 for part in first.split() if part.startswith("total=")]
