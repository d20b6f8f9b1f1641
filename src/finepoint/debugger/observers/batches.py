"""Batches: the statistics of what the model is given, and whether evaluation sees the same samples every time."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.observers.loaders import Loaders
from finepoint.debugger.recorder import Recorder, Step
from finepoint.debugger.reductions import measurable, reduce
from finepoint.debugger.selection import DEFAULT_REDUCTIONS

# So many numbers of a sample make its fingerprint, so many samples of a pass are taken.
_NUMBERS = 256
_SAMPLES = 2048
_MOST_CHANNELS = 4


class Batches:
    """Records statistics of the model's input at saved steps, and fingerprints of evaluation samples at every step."""

    def __init__(self, recorder: Recorder, loaders: Loaders) -> None:
        self._recorder, self._loaders = recorder, loaders
        self._shapes: set[tuple[Any, ...]] = set()
        self._taken: dict[tuple[int, int], int] = {}
        self._read: set[int] = set()
        recorder.on_step_begin.append(self._step_begins)

    def _step_begins(self, step: Step) -> None:
        batch = next((item for item in (*step.args, *step.kwargs.values()) if isinstance(item, Tensor)), None)
        if batch is None or batch.dim() < 2:
            return
        if step.heavy:
            self._measure(step, batch)
        if step.mode is ModeKeys.EVAL and step.light and self._loaders.current is not None:
            self._fingerprint(step, batch)
            self._read_twice(step, self._loaders.current.loader)

    def _measure(self, step: Step, batch: Tensor) -> None:
        shape = (step.mode, *batch.shape[1:], batch.dtype)
        if shape not in self._shapes:
            self._shapes.add(shape)
            dtype = str(batch.dtype).removeprefix("torch.")
            self._recorder.writer.fact("sample_input", step.number, step.mode, shape=list(batch.shape), dtype=dtype)
        tensor = measurable(batch)
        if tensor is None:
            return
        for reduction, value in reduce(tensor, DEFAULT_REDUCTIONS["input"]):
            self._recorder.put("input", value, reduction)
        if batch.dim() == 4 and batch.shape[1] <= _MOST_CHANNELS:
            for channel in range(batch.shape[1]):
                for reduction, value in reduce(tensor[:, channel], DEFAULT_REDUCTIONS["input"]):
                    self._recorder.put(f"input/channel{channel}", value, reduction)

    def _fingerprint(self, step: Step, batch: Tensor) -> None:
        current = self._loaders.current
        assert current is not None
        place = (current.loader, current.number)
        taken = self._taken.get(place, 0)
        if taken >= _SAMPLES:
            return
        self._taken[place] = taken + len(batch)
        flat = batch.detach().reshape(len(batch), -1)
        some = flat[:, :: max(1, flat.shape[1] // _NUMBERS)].float().cpu().numpy()
        self._recorder.writer.fact(
            "evaluation_batch",
            step.number,
            step.mode,
            loader=current.loader,
            **{"pass": current.number},
            batch=current.batches - 1,
            samples=[hashlib.blake2b(row.tobytes(), digest_size=6).hexdigest() for row in some],
        )

    def _read_twice(self, step: Step, number: int) -> None:
        """Read a sample of an evaluation loader with two random states, and leave all random states as they were.

        Only data sets and transforms of torchvision are read: of others nobody knows what reading changes in them.
        """
        if number in self._read:
            return
        self._read.add(number)
        dataset = self._loaders.loader(number).dataset
        if not _harmless(dataset):
            return
        with _random_states_kept():
            first = _seeded(dataset, 1)
            second = _seeded(dataset, 2)
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            equal = first.shape == second.shape and bool(torch.equal(first, second))
            self._recorder.writer.fact("read_twice", step.number, step.mode, loader=number, equal=equal)


def _harmless(dataset: Any) -> bool:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    transform = getattr(dataset, "transform", None)
    parts = getattr(transform, "transforms", [transform])
    return type(dataset).__module__.startswith("torchvision.datasets") and all(
        part is not None and type(part).__module__.startswith("torchvision.transforms") for part in parts
    )


def _seeded(dataset: Any, seed: int) -> Any:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        sample = dataset[0]
    except Exception:  # noqa: BLE001 - a sample that cannot be read is the user's to find, in their own code
        return None
    return sample[0] if isinstance(sample, tuple | list) else sample


@contextmanager
def _random_states_kept() -> Iterator[None]:
    python, array, tensor = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.default_generator.set_state(tensor)
