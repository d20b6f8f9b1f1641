"""The control groups that a process is in: their limits, how often they were throttled, and kills for memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from finepoint.profiler.kernel import kernel_text

_ROOT = Path("/sys/fs/cgroup")
# Version 1 writes "no limit" as the largest multiple of a page.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class ControlGroup:
    """The folders of a process's control groups, the innermost first, up to the root of the mount.

    Args:
        cpu: of the controller that limits processor time.
        memory: of the one that limits memory.
    """

    cpu: tuple[Path, ...] = ()
    memory: tuple[Path, ...] = ()

    @property
    def within_root(self) -> bool:
        """Whether any of the groups is another than the mount's root."""
        return len(self.cpu) > 1 or len(self.memory) > 1

    def cpu_limit(self) -> float | None:
        """Return how many cores the group may use, or None where nothing limits it."""
        limits = [limit for folder in self.cpu if (limit := _cpu_limit(folder)) is not None]
        return min(limits, default=None)

    def memory_limit(self) -> int | None:
        """Return how many bytes the group may use, or None where nothing limits it."""
        limits = [limit for folder in self.memory if (limit := _memory_limit(folder)) is not None]
        return min(limits, default=None)

    def memory_left(self) -> int | None:
        """Return how many bytes the group may still use, or None where nothing limits it."""
        left = [max(0, limit - _memory_used(folder)) for folder in self.memory if (limit := _memory_limit(folder))]
        return min(left, default=None)

    def throttled_seconds(self) -> float:
        """Return the time that the group's tasks were kept from running by its limit, added up over cores."""
        seconds = 0.0
        for folder in self.cpu:
            values = _pairs(f"{folder}/cpu.stat")
            seconds += values.get("throttled_usec", 0) / 1e6 + values.get("throttled_time", 0) / 1e9
        return seconds

    def memory_kills(self) -> int:
        """Return how many tasks the kernel has killed because the group was out of memory."""
        for folder in self.memory:
            for name in ("memory.events", "memory.oom_control"):
                values = _pairs(f"{folder}/{name}")
                if "oom_kill" in values:
                    return values["oom_kill"]
        return 0


def control_group_of(pid: int, *, root: Path = _ROOT, proc: Path = Path("/proc")) -> ControlGroup:
    """Return the control groups of a process; without folders where the system has none.

    Args:
        pid: the process.
        root: where control groups are mounted, version 1 with a folder per controller or version 2.
        proc: where processes are.
    """
    return _named_groups(_text(f"{proc}/{pid}/cgroup"), root)


@lru_cache(maxsize=1)
def _named_groups(text: str, root: Path) -> ControlGroup:
    """Return the groups that a process's `cgroup` file names; a sampler asks for the same ones at every look."""
    names = {controller: name for line in text.splitlines() for controller, name in _controllers(line)}
    return ControlGroup(
        cpu=_folders(root, ("cpu", "cpu,cpuacct"), names.get("cpu", names.get(""))),
        memory=_folders(root, ("memory",), names.get("memory", names.get(""))),
    )


def _controllers(line: str) -> list[tuple[str, str]]:
    _, controllers, name = line.split(":", 2)
    return [(controller, name) for controller in controllers.split(",")]


def _folders(root: Path, controllers: tuple[str, ...], name: str | None) -> tuple[Path, ...]:
    if name is None:
        return ()
    mounted = next((root / controller for controller in controllers if (root / controller).is_dir()), root)
    folder = mounted / name.lstrip("/")
    # In a container the name is often the host's, and the mount begins at the container's own group.
    if not folder.is_dir():
        folder = mounted
    above = [folder, *(parent for parent in folder.parents if parent.is_relative_to(mounted))]
    return tuple(path for path in above if path.is_dir())


def _cpu_limit(folder: Path) -> float | None:
    quota, _, period = _text(f"{folder}/cpu.max").partition(" ")
    if not period:
        quota, period = _text(f"{folder}/cpu.cfs_quota_us"), _text(f"{folder}/cpu.cfs_period_us")
    if not quota.isdigit() or not period.isdigit():
        return None  # "max", or -1
    return int(quota) / int(period)


def _memory_limit(folder: Path) -> int | None:
    text = _text(f"{folder}/memory.max") or _text(f"{folder}/memory.limit_in_bytes")
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _memory_used(folder: Path) -> int:
    text = _text(f"{folder}/memory.current") or _text(f"{folder}/memory.usage_in_bytes")
    return int(text) if text.isdigit() else 0


def _pairs(path: str) -> dict[str, int]:
    fields = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in fields if len(pair) == 2 and pair[1].isdigit()}


def _text(path: str) -> str:
    try:
        return kernel_text(path).strip()
    except OSError:
        return ""
