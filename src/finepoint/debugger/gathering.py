"""Gathering: what is noted of a step, brought over from its devices and handed to the writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from finepoint.debugger.budget import Budget
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.reductions import Arriving, Pending, as_array, measurable, reduce, reduce_all, sampled
from finepoint.debugger.selection import Plan, Selection
from finepoint.debugger.writing import RecordingWriter, SeriesKey

# Steps whose values may be on their way from a GPU at once; then the oldest is waited for.
_ON_THEIR_WAY = 16


@dataclass
class Step:
    """A step that is being recorded.

    Args:
        number: within its mode.
        at: over all modes.
        light: whether what costs next to nothing is recorded of it.
        active: the collections that are saved of it.
        args: what the model was called with.
        kwargs: likewise.
        calls: of each module, so far.
    """

    mode: ModeKeys
    number: int
    at: int
    light: bool
    active: frozenset[str]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    spent: float = 0.0

    @property
    def heavy(self) -> bool:
        """Whether tensors are saved of it."""
        return bool(self.active)


class Gatherer:
    """Takes what observers note of the current step and writes it.

    Args:
        writer: of the recording.
        selection: what is saved of which tensors.
        mode: of steps that the program says; None to read it off the model.
    """

    def __init__(self, writer: RecordingWriter, selection: Selection, mode: ModeKeys | None = None) -> None:
        self.writer, self.selection, self.mode = writer, selection, mode
        self.budget = selection.budget or Budget()
        self.step: Step | None = None
        self.total = -1
        self._pending = Pending()
        self._arriving: list[tuple[Step, Arriving]] = []
        self._nonfinite = False
        # By collection: all members, and those that the recording has not been told of yet.
        self._members: dict[str, set[str]] = {}
        self._named: dict[str, set[str]] = {}

    def put(self, name: str, value: Tensor | float, reduction: str = "value") -> None:
        """Add one number (or a tensor of no dimensions, of its own) to the current step."""
        if self.step is not None:
            self._pending.add((name, reduction), value)

    def plan(self, name: str, kind: str) -> Plan:
        """Return what is to be saved of a tensor at the current step."""
        return self.selection.plan(name, kind, self.step.active if self.step is not None else frozenset())

    def save(self, name: str, tensor: Any, kind: str) -> None:
        """Save of a tensor what its collections ask for at this step.

        Args:
            name: in full.
            tensor: what is not a tensor of numbers is passed over.
            kind: `weight, gradient, output, input, loss` or `other`; decides the reductions where nothing else does.
        """
        plan = self.plan(name, kind)
        if plan and (ready := measurable(tensor)) is not None:
            self._keep(name, tensor, plan)
            for reduction, value in reduce(sampled(ready) if plan.sampled else ready, plan.reductions):
                self._pending.add((name, reduction), value)

    def save_all(self, tensors: list[tuple[str, Tensor]], kind: str) -> None:
        """Save several tensors; norms of all of them are computed at once."""
        groups: dict[tuple[tuple[str, ...], bool], list[tuple[str, Tensor]]] = {}
        for name, tensor in tensors:
            plan = self.plan(name, kind)
            if plan and (ready := measurable(tensor)) is not None:
                self._keep(name, tensor, plan)
                groups.setdefault((plan.reductions, plan.sampled), []).append((name, ready))
        for (reductions, sample), members in groups.items():
            rows = reduce_all([tensor for _, tensor in members], reductions, sample=sample)
            for (name, _), row in zip(members, rows, strict=True):
                for reduction, value in row:
                    self._pending.add((name, reduction), value)

    def scalar(self, name: str, value: float) -> None:
        """Record a number that the program names, at the current step or, before the first, at step 0."""
        step = self.step
        if step is not None:
            self.put(name, value)
        else:
            self.writer.values(max(self.total, 0), self.mode or ModeKeys.TRAIN, {(name, "value"): value})

    def keep_whole(self, name: str, tensor: Tensor, collections: tuple[str, ...]) -> None:
        """Keep a whole tensor at the current step, whether or not the step is saved."""
        for collection in collections:
            self.member(collection, name)
        if self.step is not None:
            self.writer.tensor(name, self.step.number, self.step.mode, as_array(tensor), self.step.at)

    def member(self, collection: str, name: str) -> None:
        """Note that a name belongs to a collection."""
        known = self._members.setdefault(collection, set())
        if name not in known:
            known.add(name)
            self._named.setdefault(collection, set()).add(name)

    def flush(self) -> None:
        """Send what has been gathered of the current step to the writer."""
        if self.step is not None and self._pending:
            self._arriving.append((self.step, self._pending.depart()))
        self._drain(False)

    def _keep(self, name: str, tensor: Tensor, plan: Plan) -> None:
        for collection in plan.collections:
            self.member(collection, name)
        if plan.whole and self.step is not None:
            self.writer.tensor(name, self.step.number, self.step.mode, as_array(tensor), self.step.at)

    def _drain(self, wait: bool) -> None:
        while self._arriving and (wait or self._arriving[0][1].here or len(self._arriving) > _ON_THEIR_WAY):
            step, arriving = self._arriving.pop(0)
            values = arriving.read()
            # What was computed in float32 is kept so; it is most of a recording.
            for wide in (np.float32, np.float64):
                keys = tuple(key for key in values if (key in arriving.narrow) == (wide is np.float32))
                self.writer.row(step.number, step.mode, keys, np.array([values[key] for key in keys], wide), step.at)
            if step.heavy and not self._nonfinite:
                self._look_for_nonfinite(step, values)

    def _look_for_nonfinite(self, step: Step, values: Mapping[SeriesKey, float]) -> None:
        for (name, reduction), value in values.items():
            if not np.isfinite(value) and reduction != "value":
                self._nonfinite = True
                self.writer.fact("nonfinite", step.number, step.mode, **_describe(name))
                return

    def _tell_cost(self) -> None:
        self.writer.fact(
            "overhead",
            hook_seconds=self.budget.spent,
            job_seconds=self.budget.elapsed,
            fraction=self.budget.fraction,
        )
        for collection, names in self._named.items():
            self.writer.fact("collection", name=collection, tensors=sorted(names))
        self._named = {}


def _describe(name: str) -> dict[str, str | None]:
    """Return what kind of tensor a series is of, and its module."""
    if name.startswith("gradient/"):
        return {"name": name, "what": "gradient", "module": name.removeprefix("gradient/").rpartition(".")[0]}
    if name == "input" or name.startswith("input/"):
        return {"name": name, "what": "input", "module": None}
    for mark, what in (("_output_", "output"), ("_input_", "input")):
        module, found, _ = name.rpartition(mark)
        if found:
            return {"name": name, "what": "loss" if "loss" in module.lower() else what, "module": module}
    return {"name": name, "what": "parameter", "module": name.rpartition(".")[0]}
