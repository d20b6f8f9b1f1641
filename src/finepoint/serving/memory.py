"""How much memory is free here, in a container or on the machine itself."""

from __future__ import annotations

import os

import psutil

from finepoint.profiler.cgroups import ControlGroup, control_group_of


def free_bytes(group: ControlGroup | None = None) -> int:
    """Return the bytes that may still be used: what the machine has, or less where a control group's limit is nearer.

    Args:
        group: of the process; by default this one's.
    """
    free = int(psutil.virtual_memory().available)
    left = (group or control_group_of(os.getpid())).memory_left()
    return free if left is None else min(free, left)
