"""Data loaders: what they are, their passes, and how long the program waits for them."""

from __future__ import annotations

import os
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, SequentialSampler

from finepoint.batches import BATCH, LOADER_BEGIN, LOADER_END
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.observers.losses import PassLabels
from finepoint.debugger.recorder import Recorder, Step


@dataclass
class Pass:
    """An iteration over a loader."""

    loader: int
    number: int
    batches: int = 0
    modes: Counter[ModeKeys] = field(default_factory=Counter)
    steps: dict[ModeKeys, tuple[int, int]] = field(default_factory=dict)


class Loaders:
    """Describes loaders once, records waiting at every step and each pass when it ends."""

    def __init__(self, recorder: Recorder, labels: PassLabels) -> None:
        self._recorder, self._labels = recorder, labels
        self._numbers: dict[int, tuple[int, DataLoader[Any]]] = {}
        self._passes: dict[int, Pass] = {}
        self._counts: Counter[int] = Counter()
        self._waited = 0.0
        self._last: tuple[float, ModeKeys] | None = None
        # The pass whose batch came last, and that batch's number: what a step is most likely about.
        self.current: Pass | None = None
        recorder.watch(LOADER_BEGIN, self._begins, always=True)
        recorder.watch(BATCH, self._batch, always=True)
        recorder.watch(LOADER_END, self._ends, always=True)
        recorder.on_step_begin.append(self._step_begins)
        recorder.on_step_skipped.append(self._step_counts)

    def loader(self, number: int) -> DataLoader[Any]:
        """Return the loader of a number."""
        return next(loader for known, loader in self._numbers.values() if known == number)

    def _begins(self, loader: DataLoader[Any]) -> None:
        if id(loader) not in self._numbers:
            # A loader that is made anew for each pass over the same data set is the same loader.
            alike = next(
                (number for number, known in self._numbers.values() if _alike(known, loader)), len(set(self._counts))
            )
            known_already = any(number == alike for number, _ in self._numbers.values())
            self._numbers[id(loader)] = (alike, loader)
            if not known_already:
                self._describe(alike, loader)
        number = self._numbers[id(loader)][0]
        self._passes[id(loader)] = Pass(number, self._counts[number])
        self._counts[number] += 1

    def _batch(self, loader: DataLoader[Any], batch: Any, waited: float) -> None:
        self._waited += waited
        if (current := self._passes.get(id(loader))) is not None:
            current.batches += 1
            self.current = current

    def _step_begins(self, step: Step) -> None:
        now = time.perf_counter()
        if step.light and self._last is not None and self._last[1] is step.mode:
            self._recorder.put("step_seconds", now - self._last[0])
            self._recorder.put("data_seconds", self._waited)
        self._last = (now, step.mode)
        self._step_counts(step.mode, step.number)

    def _step_counts(self, mode: ModeKeys, number: int) -> None:
        # After a step that is passed over, no time from step to step is known.
        if self._recorder.step is None:
            self._last = None
        self._waited = 0.0
        if self.current is not None:
            self.current.modes[mode] += 1
            first, _ = self.current.steps.get(mode, (number, number))
            self.current.steps[mode] = (first, number)

    def _ends(self, loader: DataLoader[Any], exhausted: bool, waited: float) -> None:
        ended = self._passes.pop(id(loader), None)
        if ended is None or not ended.modes:
            return
        mode = ended.modes.most_common(1)[0][0]
        first, last = ended.steps[mode]
        self._recorder.writer.fact(
            "pass",
            last,
            mode,
            loader=ended.loader,
            number=ended.number,
            batches=ended.batches,
            first_step=first,
            last_step=last,
            exhausted=exhausted,
        )
        histogram = self._labels.take()
        if histogram:
            self._recorder.writer.fact(
                "pass_labels", last, mode, loader=ended.loader, number=ended.number, histogram=histogram
            )
        if self.current is ended:
            self.current = None

    def _describe(self, number: int, loader: DataLoader[Any]) -> None:
        dataset = loader.dataset
        layers = _layers(dataset)
        inner = layers[-1]
        transform = getattr(dataset, "transform", None) or getattr(inner, "transform", None)
        sampler = type(loader.sampler).__name__ if loader.sampler is not None else None
        self._recorder.writer.fact(
            "loader",
            number=number,
            dataset=type(inner).__name__,
            source=_source(layers),
            length=_length(dataset),
            batch_size=loader.batch_size,
            workers=loader.num_workers,
            shuffle=not isinstance(loader.sampler, SequentialSampler),
            drop_last=loader.drop_last,
            sampler=sampler,
            transform=None if transform is None else " ".join(repr(transform).split())[:2000],
        )


def _layers(dataset: Any) -> list[Any]:
    """Return a data set and what it is a part or a view of, the innermost last."""
    layers = [dataset]
    while (inner := getattr(layers[-1], "dataset", None)) is not None and len(layers) < 10:
        layers.append(inner)
    return layers


def _source(layers: list[Any]) -> str | None:
    """Return where a data set has its samples from, and which of them it takes; None where it does not say."""
    root = getattr(layers[-1], "root", None)
    if not isinstance(root, str | os.PathLike):
        return None
    parts = [getattr(layer, "indices", None) for layer in layers]
    # As torchvision's sets name their parts.
    named = [str(value) for name in ("split", "train") if (value := getattr(layers[-1], name, None)) is not None]
    taken = [zlib.crc32(np.asarray(part, np.int64).tobytes()) for part in parts if part is not None]
    return " ".join([str(root), type(layers[-1]).__name__, *named, *(f"{crc:08x}" for crc in taken)])


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _alike(one: DataLoader[Any], other: DataLoader[Any]) -> bool:
    return one.dataset is other.dataset and type(one.sampler) is type(other.sampler)
