"""What the profiler's clock needs of a training loop beside the moments of `finepoint.instrumentation`.

`OUTERMOST` tells of the outermost module that is called; `hook_time` is how long observers that record tensors have
worked: they add to it.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
from torch import nn

from finepoint.instrumentation import Event
from finepoint.patching import Remove

# What `nn.Module.__call__` is, or what others have wrapped. Hooks would slow each module down, and to replace the
# attribute makes Python forget what it knows of every class of modules, which takes 0.6 milliseconds each time. Another
# code for the function costs neither, and leaves it the one that torch.compile knows.
_CALL: Any = nn.Module._wrapped_call_impl
_PLAIN = _CALL.__code__
_plain_call = FunctionType(_PLAIN, _CALL.__globals__)


def _telling(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    # The names here are looked up where torch's function is.
    from finepoint import loops

    return loops._tell_outermost(self, args, kwargs)


def _tell_outermost(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if torch.compiler.is_compiling():
        return _plain_call(module, *args, **kwargs)
    _CALL.__code__ = _PLAIN  # what it calls is not the outermost
    OUTERMOST.emit(module, True)
    try:
        return _plain_call(module, *args, **kwargs)
    finally:
        if OUTERMOST.watched:
            _CALL.__code__ = _telling.__code__
        OUTERMOST.emit(module, False)


def _install_outermost(event: Event[[nn.Module, bool]]) -> Remove:
    def remove() -> None:
        _CALL.__code__ = _PLAIN

    _CALL.__code__ = _telling.__code__
    return remove


# Called with a module, and whether it begins or has ended; it has ended also where it raised.
OUTERMOST: Event[[nn.Module, bool]] = Event(_install_outermost)


class HookTime:
    """How long observers that record tensors have worked in this process; they add to it, the profiler reads it."""

    seconds = 0.0


hook_time = HookTime()
