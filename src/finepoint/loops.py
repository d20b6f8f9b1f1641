"""What the profiler's clock needs of a training loop beside the moments of `finepoint.instrumentation`.

`watch_outermost` tells of the outermost module that is called; `hook_time` is how long observers that record tensors
have worked: they add to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from finepoint.instrumentation import Subscription, shielded


def watch_outermost(callback: Callable[[nn.Module, bool], object]) -> Subscription:
    """Have `callback` called with the outermost module that is called: with True before, with False after.

    After it is also where the module raises. Global hooks would slow every module in it down four times as much.
    Pausing leaves the patch in place, for to change `nn.Module.__call__` takes some 200 microseconds.
    """
    original = nn.Module.__call__
    inside, on = False, True

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

    def turn(to: bool) -> None:
        nonlocal on
        on = to

    def close() -> None:
        turn(False)  # where another has wrapped ours since, ours does nothing any more
        if vars(nn.Module)["__call__"] is call:
            nn.Module.__call__ = original  # type: ignore[method-assign]

    nn.Module.__call__ = call  # type: ignore[method-assign]
    return Subscription(close, resume=lambda: turn(True), pause=lambda: turn(False))


class HookTime:
    """How long observers that record tensors have worked in this process; they add to it, the profiler reads it."""

    seconds = 0.0


hook_time = HookTime()
