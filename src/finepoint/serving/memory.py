"""How much memory is free here, in a container or on the machine itself."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(group: Path = _CGROUP) -> int:
    """Return the bytes that may still be used: what the machine has, or less where the container's limit is nearer.

    Args:
        group: folder of the control group (version 2: `memory.max`, `memory.current`; elsewhere it is not looked at).
    """
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))
