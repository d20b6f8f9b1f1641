"""Moments of a training loop that the profiler's clock needs beside those of `finepoint.instrumentation`.

==================  =====================================================================================
event               callback is called with
==================  =====================================================================================
OUTER               module, True before and False after: the outermost module called, also where it raises
LOADER_READY        loader: its iterator is made (and its workers are started)
WAIT                loader: it is asked for a batch
==================  =====================================================================================

`hook_time` is how long observers that record tensors have worked; they add to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from finepoint.instrumentation import Event, Remove, replace_all


def _install_outer(event: Event[[nn.Module, bool]]) -> Remove:
    """Watch only the outermost module; global hooks would slow every module in it down four times as much."""
    original = nn.Module.__call__
    inside = False

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return original(module, *args, **kwargs)
        inside = True
        event.emit(module, True)
        try:
            return original(module, *args, **kwargs)
        finally:
            inside = False
            event.emit(module, False)

    def remove() -> None:
        nonlocal inside
        inside = True  # where another has wrapped ours since, ours does nothing any more
        if vars(nn.Module)["__call__"] is call:
            nn.Module.__call__ = original  # type: ignore[method-assign]

    nn.Module.__call__ = call  # type: ignore[method-assign]
    return remove


def _install_loader_ready(event: Event[[DataLoader[Any]]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def ready(loader: DataLoader[Any]) -> Any:
            batches = original(loader)
            event.emit(loader)
            return batches

        return ready

    return replace_all([(DataLoader, "__iter__", around)])


class _Asked:
    """An iterator over a loader's batches that tells when one is asked for; all else is the loader's own iterator's."""

    def __init__(self, batches: Iterator[Any], on_wait: Callable[[], None]) -> None:
        self._batches, self._on_wait = batches, on_wait

    def __iter__(self) -> _Asked:
        return self

    def __next__(self) -> Any:
        self._on_wait()
        return next(self._batches)

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def _install_wait(event: Event[[DataLoader[Any]]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def batches(loader: DataLoader[Any]) -> _Asked:
            return _Asked(original(loader), lambda: event.emit(loader))

        return batches

    return replace_all([(DataLoader, "__iter__", around)])


class HookTime:
    """How long observers that record tensors have worked in this process; they add to it, the profiler reads it."""

    seconds = 0.0


hook_time = HookTime()
OUTER: Event[[nn.Module, bool]] = Event(_install_outer)
LOADER_READY: Event[[DataLoader[Any]]] = Event(_install_loader_ready)
WAIT: Event[[DataLoader[Any]]] = Event(_install_wait)
