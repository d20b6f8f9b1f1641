"""What the time before a script's first step goes into: imports, loading of weights, listing of data."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finepoint.profiler.phases import PhaseClock


def startup_phases(clock: PhaseClock) -> Callable[[], None]:
    """Watch imports, loading of weights and listing of data; return what stops that."""
    plain_import = builtins.__import__
    depth = 0

    def watched_import(*args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        if depth or clock.in_loop or clock.phase != "other":
            return plain_import(*args, **kwargs)
        depth += 1
        try:
            with _phase(clock, "import"):
                return plain_import(*args, **kwargs)
        finally:
            depth -= 1
            _watch_listing()

    def around(original: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if clock.in_loop:
                return original(*args, **kwargs)
            with _phase(clock, phase):
                return original(*args, **kwargs)

        return call

    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, phase: str) -> None:
        replaced.append((owner, name, vars(owner)[name]))
        setattr(owner, name, around(vars(owner)[name], phase))

    def _watch_listing() -> None:
        module = sys.modules.get("torchvision.datasets.folder")
        folder = getattr(module, "DatasetFolder", None)
        if folder is not None and not any(owner is folder for owner, *_ in replaced):
            replace(folder, "__init__", "data_listing")

    def stop() -> None:
        if builtins.__import__ is watched_import:
            builtins.__import__ = plain_import
        for owner, name, original in replaced:
            setattr(owner, name, original)

    builtins.__import__ = watched_import
    replace(torch, "load", "weights")
    replace(nn.Module, "load_state_dict", "weights")
    return stop


@contextmanager
def _phase(clock: PhaseClock, name: str) -> Iterator[None]:
    clock.enter(name)
    try:
        yield
    finally:
        clock.leave(name)
