"""Changes made to a running script from outside, for a short window of steps.

`finepoint.attaching` calls `apply` in the script's process. It makes one change, seeds everything so that two windows
can be compared, notes each step's loss and duration, and ends the process when the window is full.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from finepoint import instrumentation as moments
from finepoint.batches import BATCH
from finepoint.files import write_json
from finepoint.profiler.attachment import was_spawned
from finepoint.profiler.loading import first_tensor

NAME = "finepoint.profiler.changes:apply"
VARIABLE = "FINEPOINT_PROFILE_TRY"
# What `DataLoader` takes by position after the dataset.
_LOADER_ARGUMENTS = (
    "batch_size",
    "shuffle",
    "sampler",
    "batch_sampler",
    "num_workers",
    "collate_fn",
    "pin_memory",
    "drop_last",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
)


def apply() -> None:
    """Make the change that the environment names, and watch the window."""
    wanted = json.loads(os.environ[VARIABLE])
    change = wanted["change"]
    _seed_loading()
    if "draft_side" in change:
        _draft(change["draft_side"])
    if was_spawned():
        return
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    if "num_workers" in change or "batch_size" in change:
        _change_loaders(change)
    if "threads" in change:
        torch.set_num_threads(change["threads"])
        torch.set_num_threads = lambda count: None  # type: ignore[assignment]  # the script's own call comes later
    if change.get("memory_format") == "channels_last":
        _channels_last()
    if change.get("precision") == "bf16":
        _autocast()
    _Window(Path(wanted["result"]), int(wanted["steps"])).watch()


class _Window:
    """Notes losses and durations of steps, and ends the process."""

    def __init__(self, result: Path, steps: int) -> None:
        self._result, self._steps, self._pid = result, steps, os.getpid()
        self._losses: list[float] = []
        self._times: list[float] = []
        self._batch = 0

    def watch(self) -> None:
        """Watch until the window is full."""
        moments.BACKWARD_BEGIN.subscribe(self._loss)
        BATCH.subscribe(self._sized)
        moments.STEP_END.subscribe(self._step)

    def _loss(self, tensors: Any) -> None:
        if isinstance(tensors, Tensor) and tensors.numel() == 1:
            self._losses.append(float(tensors.detach()))

    def _sized(self, loader: Any, batch: Any, waited: float) -> None:
        first = first_tensor(batch)
        if torch.is_grad_enabled() and first is not None and first.ndim:
            self._batch = max(self._batch, len(first))  # a pass's last batch may be smaller

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        if os.getpid() != self._pid:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a window is for measuring; without this its last step would not be over
        self._times.append(time.perf_counter())
        if len(self._times) > self._steps:
            durations = np.diff(self._times).tolist()
            write_json(self._result, {"losses": self._losses, "seconds": durations, "batch_size": self._batch})
            os._exit(0)  # nothing of the script's own ending, such as a last checkpoint, is to happen


def _change_loaders(change: dict[str, Any]) -> None:
    original = DataLoader.__init__

    def changed(loader: DataLoader[Any], dataset: Any, *args: Any, **kwargs: Any) -> None:
        kwargs = {**dict(zip(_LOADER_ARGUMENTS, args, strict=False)), **kwargs}
        if "num_workers" in change:
            kwargs["num_workers"] = change["num_workers"]
        if "batch_size" in change and kwargs.get("batch_sampler") is None:
            kwargs["batch_size"] = change["batch_size"]
        original(loader, dataset, **kwargs)

    DataLoader.__init__ = changed  # type: ignore[assignment, method-assign]


def _seed_loading() -> None:
    """Have what is drawn for a batch (crops, flips) depend on the batch alone, and not on who loads it, and when."""
    from torch.utils.data._utils import fetch

    original = fetch._MapDatasetFetcher.fetch

    def seeded(fetcher: Any, index: Any) -> Any:
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()
        first = index[0] if isinstance(index, list) else index
        number = first if isinstance(first, int) else 0
        # Not torch.manual_seed: a GPU's generator is none of loading's.
        torch.default_generator.manual_seed(number)
        random.seed(number)
        np.random.seed(number)
        try:
            return original(fetcher, index)  # type: ignore[no-untyped-call]
        finally:
            torch.set_rng_state(before[0])
            random.setstate(before[1])
            np.random.set_state(before[2])

    fetch._MapDatasetFetcher.fetch = seeded  # type: ignore[method-assign]


def _draft(side: int) -> None:
    """Have Pillow decode JPEG files at a fraction of their size, as far as the shorter side is no less than `side`."""
    try:
        from PIL import Image
    except ImportError:
        return  # then nothing is decoded with it
    original = Image.open

    def opened(*args: Any, **kwargs: Any) -> Any:
        image = original(*args, **kwargs)
        image.draft(None, (side, side))  # keeps the mode; other formats ignore it
        return image

    Image.open = opened


def _channels_last() -> None:
    original = nn.Module.__call__
    turned: set[int] = set()

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if id(module) not in turned:
            turned.add(id(module))
            if any(parameter.ndim == 4 for parameter in module.parameters(recurse=False)):
                module.to(memory_format=torch.channels_last)
        args = tuple(
            value.contiguous(memory_format=torch.channels_last)
            if isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()
            else value
            for value in args
        )
        return original(module, *args, **kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]


def _autocast() -> None:
    original = nn.Module.__call__
    inside = False

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return original(module, *args, **kwargs)
        inside = True
        device = next((parameter.device.type for parameter in module.parameters()), "cpu")
        try:
            with torch.autocast(device, dtype=torch.bfloat16):
                output = original(module, *args, **kwargs)
            return output.float() if isinstance(output, Tensor) and output.dtype is torch.bfloat16 else output
        finally:
            inside = False

    nn.Module.__call__ = call  # type: ignore[method-assign]
