"""What the profiler's clock needs of a training loop beside the moments of `finepoint.instrumentation`.

`watch_outermost` tells of the outermost module that is called; `hook_time` is how long observers that record tensors
have worked: they add to it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from finepoint.instrumentation import Subscription, shielded

# From Python 3.13 on a class that has been changed a thousand times is slow for ever.
_MOST_CHANGES = 500 if sys.version_info >= (3, 13) else math.inf


def watch_outermost(callback: Callable[[nn.Module, bool], object]) -> Subscription:
    """Have `callback` called with the outermost module that is called: with True before, with False after.

    After it is also where the module raises. Global hooks would slow every module in it down four times as much. To
    pause and to resume takes some 200 microseconds each; where that may not be done any more, the patch stays in place
    and costs each module a microsecond or two.
    """
    original = nn.Module.__call__
    inside = on = placed = False
    changes = 0

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside or not on or torch.compiler.is_compiling():
            return original(module, *args, **kwargs)
        inside = True
        shielded(callback, module, True)
        try:
            return original(module, *args, **kwargs)
        finally:
            inside = False
            shielded(callback, module, False)

    def install() -> None:
        nonlocal original, on, placed, changes
        on, current = True, vars(nn.Module)["__call__"]
        if not placed or current is original:
            original, nn.Module.__call__ = current, call  # type: ignore[method-assign]
            placed, changes = True, changes + 2

    def remove() -> None:
        nonlocal on, placed
        on = False  # where another has wrapped ours since, ours stays below it and does nothing any more
        if vars(nn.Module)["__call__"] is call:
            nn.Module.__call__ = original  # type: ignore[method-assign]
            placed = False

    def pause() -> None:
        nonlocal on
        if changes < _MOST_CHANGES:
            remove()
        else:
            on = False

    install()
    return Subscription(remove, install, pause=pause)


class HookTime:
    """How long observers that record tensors have worked in this process; they add to it, the profiler reads it."""

    seconds = 0.0


hook_time = HookTime()
