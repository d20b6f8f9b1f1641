"""What rules read of a recording in common: losses, epochs, parameters, modules."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording, Series

TRAIN, EVAL = ModeKeys.TRAIN, ModeKeys.EVAL
# Points of a series that evidence carries for a plot.
_PLOT_POINTS = 100


@dataclass(frozen=True)
class Module:
    """A module of the model, as the fact `model` describes it."""

    name: str
    type: str
    trainable: bool
    frozen: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """A parameter, with the name of its series."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    module: Module

    @property
    def is_weight(self) -> bool:
        """Whether it is a matrix or a kernel; biases, scales and tokens behave otherwise by design."""
        return sum(size > 1 for size in self.shape) >= 2


@dataclass(frozen=True)
class Span:
    """The steps of one pass over the data: first and last, both included."""

    first: int
    last: int
    time: float


def modules(recording: Recording) -> list[Module]:
    """Return the model's modules in their order, as last seen."""
    return [_module(item) for item in _model(recording)]


def parameters(recording: Recording) -> list[Parameter]:
    """Return the model's parameters in the order of its modules, as last seen."""
    return [
        Parameter(item["name"], tuple(item["shape"]), bool(item["requires_grad"]), _module(owner))
        for owner in _model(recording)
        for item in owner["parameters"]
    ]


def behind_trained(recording: Recording) -> list[str] | None:
    """Return the names of the modules from the first trained one on; None where no model was described."""
    listed = modules(recording)
    first = next((index for index, module in enumerate(listed) if module.trainable), None)
    if not listed:
        return None
    return [module.name for module in listed[first:]] if first is not None else []


def trained_weights(recording: Recording) -> list[Parameter]:
    """Return the weights (no biases, no scales) that require a gradient."""
    return [item for item in parameters(recording) if item.trainable and item.is_weight]


def series(recording: Recording, name: str, reduction: str | None = None, mode: ModeKeys = TRAIN) -> Series:
    """Return a series as the first process saw it."""
    return recording.series(name, reduction, mode, rank=first_rank(recording))


def first_rank(recording: Recording) -> int:
    """Return the lowest rank that wrote."""
    return min(recording.ranks, default=0)


def loss(recording: Recording, mode: ModeKeys = TRAIN) -> Series:
    """Return the loss of each batch; of several losses the one that was computed most often, then first by name."""
    names = recording.names(collection="losses", mode=mode) or recording.names(r"Loss_output_\d+$", mode=mode)
    found = [series(recording, name, "mean", mode) for name in names]
    return max(found, key=len, default=series(recording, "loss", "mean", mode))


def epochs(recording: Recording, mode: ModeKeys = TRAIN) -> list[Span]:
    """Return the passes over the data in a mode that have ended.

    They are those over a data loader; without one, the runs of steps between which another mode was on.
    """
    spans = [
        Span(fact["first_step"], fact["last_step"], fact["time"])
        for fact in recording.facts("pass", rank=first_rank(recording))
        if fact["mode"] == mode.name and fact["last_step"] is not None and fact["first_step"] is not None
    ]
    if spans:
        return spans
    own = loss(recording, mode)
    others = [loss(recording, other).global_steps for other in (TRAIN, EVAL) if other is not mode]
    between = np.sort(np.concatenate(others)) if others else np.zeros(0, np.int64)
    ends = [index for index in range(len(own)) if _is_last(own.global_steps, index, between)]
    if recording.ended and len(own) and len(own) - 1 not in ends:
        ends.append(len(own) - 1)
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [Span(int(own.steps[a]), int(own.steps[b]), float(own.times[b])) for a, b in zip(starts, ends, strict=False)]


def epoch_means(recording: Recording, mode: ModeKeys = TRAIN) -> tuple[list[Span], np.ndarray]:
    """Return the passes in a mode that have ended, and the mean loss of each, by samples."""
    losses, spans = loss(recording, mode), epochs(recording, mode)
    sizes = series(recording, "batch_size", None, mode)
    weight = dict(zip(sizes.steps.tolist(), sizes.values.tolist(), strict=True))
    kept, means = [], []
    for span in spans:
        inside = (losses.steps >= span.first) & (losses.steps <= span.last)
        if inside.any():
            weights = np.array([weight.get(step, 1.0) for step in losses.steps[inside].tolist()])
            kept.append(span)
            means.append(float(np.average(losses.values[inside], weights=weights)))
    return kept, np.array(means)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each `window` successive values, [n - window + 1]; empty where there are fewer."""
    if len(values) < window:
        return np.zeros(0)
    return np.convolve(values, np.ones(window) / window, "valid")


def first_run(flags: Sequence[bool] | np.ndarray, length: int) -> int | None:
    """Return the index at which `flags` has been true `length` times in a row, for the first time.

    >>> first_run([True, False, True, True], 2)
    3
    """
    run = 0
    for index, flag in enumerate(flags):
        run = run + 1 if flag else 0
        if run == length:
            return index
    return None


def plot(*drawn: Series, name: str | None = None) -> list[dict[str, Any]]:
    """Return series as evidence carries them: thinned to what a small plot can show."""
    result = []
    for item in drawn:
        stride = -(-len(item) // _PLOT_POINTS) or 1
        result.append(
            {
                "name": name or item.name,
                "mode": item.mode.name,
                "reduction": item.reduction,
                "steps": item.steps[::stride].tolist(),
                "values": [round_to(value) for value in item.values[::stride].tolist()],
            }
        )
    return result


def round_to(value: float, digits: int = 4) -> float:
    """Return a number with so many significant digits."""
    return float(f"{value:.{digits}g}")


def collections_of(recording: Recording, names: Sequence[str], regexes: Sequence[str]) -> list[str]:
    """Return the tensors of collections together with those that match, as SageMaker's rules choose theirs."""
    chosen = set(itertools.chain.from_iterable(recording.names(collection=name.strip()) for name in names))
    chosen |= set(itertools.chain.from_iterable(recording.names(regex.strip()) for regex in regexes))
    return sorted(chosen)


def _model(recording: Recording) -> list[dict[str, Any]]:
    facts = recording.facts("model", rank=first_rank(recording))
    return facts[-1]["modules"] if facts else []


def _module(item: Mapping[str, Any]) -> Module:
    return Module(item["name"], item["type"], bool(item["trainable"]), bool(item["frozen"]), item["settings"] or {})


def _is_last(steps: np.ndarray, index: int, between: np.ndarray) -> bool:
    """Whether a step of another mode follows this one before the next of its own mode."""
    following = np.searchsorted(between, steps[index])
    if following == len(between):
        return False
    return index + 1 == len(steps) or between[following] < steps[index + 1]
