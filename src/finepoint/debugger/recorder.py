"""The recorder: counts a program's steps, decides what is saved of each, and gathers it from the observers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import numpy as np
import torch
from torch import Tensor, nn

from finepoint.debugger.budget import Budget
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.naming import Names, unwrapped
from finepoint.debugger.reductions import Arriving, Pending, as_array, measurable, reduce, reduce_all
from finepoint.debugger.selection import Plan, Selection
from finepoint.debugger.writing import RecordingWriter, SeriesKey
from finepoint.instrumentation import COMPILE, FORWARD_BEGIN, FORWARD_END, Event, Subscription, hook_time, watch_calls

P = ParamSpec("P")
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


class Recorder:
    """Gathers what is recorded of this process.

    Observers add to `on_step_begin`, `on_step_end`, `on_module_end` and `watch` events; what they note goes into the
    current step with `put` (one number), `save` (a tensor, reduced as its collections say) and `writer.fact`.

    Args:
        writer: of the recording.
        selection: what is saved of which tensors, and when.
        discover: whether models are found by being called; else only those given to `adopt` count.
        mode: of steps, from the start; None to read it off the model.
    """

    def __init__(
        self, writer: RecordingWriter, selection: Selection, *, discover: bool, mode: ModeKeys | None = None
    ) -> None:
        self.writer, self.selection, self.mode = writer, selection, mode
        self.budget = selection.budget or Budget()
        self.names = Names()
        self.step: Step | None = None
        self.numbers = dict.fromkeys(ModeKeys, -1)
        self.total = -1
        self.compiled = False
        self.closed = False
        self.root: nn.Module | None = None
        self.on_first_step: list[Callable[[], object]] = []
        self.on_model: list[Callable[[nn.Module], object]] = []
        self.on_step_begin: list[Callable[[Step], object]] = []
        self.on_step_end: list[Callable[[Step], object]] = []
        self.on_module_end: list[Callable[[str, nn.Module, tuple[Any, ...], Any], object]] = []
        self.on_close: list[Callable[[], object]] = []
        self._save_next = False
        self._pending = Pending()
        self._arriving: list[tuple[Step, Arriving]] = []
        self._subscriptions: list[Subscription] = []
        self._modules: list[Subscription] = []
        self._calls: list[Subscription] = []
        self._depth = 0
        self._discover = discover
        self._busy = False
        self._pid = os.getpid()
        self._nonfinite = False
        self._told = 0.0
        self._credited = 0.0
        self._named: dict[str, set[str]] = {}
        if discover:
            self.watch(COMPILE, self._compile)
            self._watch_modules()

    # What observers and the hook call.

    def watch(self, event: Event[P], callback: Callable[P, object]) -> Subscription:
        """Subscribe to an event until the recorder closes; the time the callback takes counts as spent."""
        subscription = event.subscribe(self._guarded(callback))
        self._subscriptions.append(subscription)
        return subscription

    def watch_module(
        self,
        module: nn.Module,
        begin: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], object],
        end: Callable[[nn.Module, Any], object],
    ) -> None:
        """Have callbacks called around the calls of one module until the recorder closes."""

        def begins(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if called is module:
                begin(called, args, kwargs)

        def ends(called: nn.Module, output: Any) -> None:
            if called is module:
                end(called, output)

        self._subscriptions.append(watch_calls(type(module), self._guarded(begins), self._guarded(ends)))

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
            for reduction, value in reduce(ready, plan.reductions):
                self._pending.add((name, reduction), value)

    def save_all(self, tensors: list[tuple[str, Tensor]], kind: str) -> None:
        """Save several tensors; norms of all of them are computed at once."""
        groups: dict[tuple[str, ...], list[tuple[str, Tensor]]] = {}
        for name, tensor in tensors:
            plan = self.plan(name, kind)
            if plan and (ready := measurable(tensor)) is not None:
                self._keep(name, tensor, plan)
                groups.setdefault(plan.reductions, []).append((name, ready))
        for reductions, members in groups.items():
            rows = reduce_all([tensor for _, tensor in members], reductions)
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

    def save_next(self) -> None:
        """Have the next step saved whatever the budget says: something has gone wrong."""
        self._save_next = True

    def member(self, collection: str, name: str) -> None:
        """Note that a name belongs to a collection."""
        self._named.setdefault(collection, set()).add(name)

    def adopt(self, model: nn.Module) -> None:
        """Take a model as one whose steps and tensors are recorded."""
        inner = unwrapped(model)
        if any(known is inner for known in self.names.models):
            return
        self.names.add(inner)
        for tell in self.on_model:
            tell(inner)
        if self.root is None or not _trainable(self.root):
            self._follow(model)

    def begin_step(self, mode: ModeKeys, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """End the current step and begin the next one of a mode."""
        self.end_step()
        if self.total < 0:
            if torch.utils.data.get_worker_info() is not None:
                return  # a model that a loader's worker prepares data with is nobody's training
            for first in self.on_first_step:
                first()
        self.total += 1
        self.numbers[mode] = self.total if mode is ModeKeys.GLOBAL else self.numbers[mode] + 1
        number = self.numbers[mode]
        active = self.selection.active(mode, number, force=self._save_next)
        self._save_next = False
        light = number % self.budget.stride == 0 or bool(active)
        self.step = Step(mode, number, self.total, light, active, args, kwargs or {})
        self._depth = 0
        if active and not self.compiled:
            self._watch_modules()
        for tell in self.on_step_begin:
            tell(self.step)

    def end_step(self) -> None:
        """End the current step, if there is one: what has been gathered of it is sent to the writer."""
        step = self.step
        if step is None:
            return
        began = time.perf_counter()
        for tell in self.on_step_end:
            tell(step)
        self.flush()
        self._watch_modules(False)
        self.step = None
        self._credited = time.perf_counter() - began
        step.spent += self._credited
        if self.budget.step_ended(step.mode, step.heavy, step.spent):
            self.writer.note(
                f"steps are so short that loss, learning rate and the like are recorded at every "
                f"{self.budget.stride}th only, to keep to {100 * self.budget.share:g} % of the job's time"
            )
        if time.monotonic() - self._told > 1.0:
            self._told = time.monotonic()
            self._tell_cost()
            self._drain(True)
            self.writer.tick()

    def flush(self) -> None:
        """Send what has been gathered of the current step to the writer."""
        if self.step is not None and self._pending:
            self._arriving.append((self.step, self._pending.depart()))
        self._drain(False)

    def modules_done(self) -> None:
        """Watch modules no longer in this step."""
        self._watch_modules(False)

    def close(self) -> None:
        """End recording; closing twice does nothing."""
        if self.closed or os.getpid() != self._pid:
            return
        self.end_step()
        for last in self.on_close:
            last()
        for subscription in (*self._subscriptions, *self._modules, *self._calls):
            subscription.close()
        self.closed = True
        if self.total < 0:
            # A process that trained nothing (a launcher, a loader's worker) leaves no recording.
            self.writer.discard()
            return
        self._drain(True)
        self._tell_cost()
        self.writer.close()

    # How steps and modules are seen.

    def _follow(self, model: nn.Module) -> None:
        """Let the calls of a model be the steps."""
        self.root = unwrapped(model)
        for subscription in self._calls:
            subscription.close()
        self._calls = [watch_calls(type(model), self._guarded(self._root_called), self._guarded(self._root_returned))]

    def _root_called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if unwrapped(module) is self.root:
            self.begin_step(self._mode_of(module), args, kwargs)

    def _root_returned(self, module: nn.Module, output: Any) -> None:
        if unwrapped(module) is self.root and (not self._discover or (self.total > 0 and len(self.names.models) == 1)):
            self.modules_done()

    def _mode_of(self, module: nn.Module) -> ModeKeys:
        if self.mode is not None:
            return self.mode
        return ModeKeys.TRAIN if module.training and torch.is_grad_enabled() else ModeKeys.EVAL

    def _module_called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._depth += 1
        if self._depth > 1 or not self._discover or self.names.module(unwrapped(module)) is not None:
            return
        if next(module.parameters(), None) is None or isinstance(module, nn.modules.loss._Loss):
            return
        before = self.root
        self.adopt(module)
        if self.root is not before:
            self.begin_step(self._mode_of(module), args)
            self._depth = 1

    def _module_returned(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._depth -= 1
        if self.step is None or not self.step.heavy:
            return
        name = self.names.module(module)
        if name is not None:
            for tell in self.on_module_end:
                tell(name, module, args or tuple(kwargs.values()), output)

    def _watch_modules(self, wanted: bool = True) -> None:
        if wanted and not self._modules:
            self._modules = [
                FORWARD_BEGIN.subscribe(self._guarded(self._module_called)),
                FORWARD_END.subscribe(self._guarded(self._module_returned)),
            ]
        elif not wanted and self._modules and not (self._discover and self.root is None):
            for subscription in self._modules:
                subscription.close()
            self._modules = []

    def _compile(self, target: Any) -> None:
        model = target if isinstance(target, nn.Module) else getattr(target, "__self__", None)
        self.compiled = True
        self._discover = False
        for subscription in self._modules:
            subscription.close()
        self._modules = []
        self.writer.note(
            "torch.compile is used: of the compiled model only its inputs, parameters and gradients are seen, "
            "not the outputs of the modules inside; losses only where they are computed outside"
        )
        if not isinstance(model, nn.Module):
            return
        inner = unwrapped(model)
        if self.names.module(inner) is None:
            self.names.add(inner)
            for tell in self.on_model:
                tell(inner)
        self._follow(inner)
        if isinstance(target, nn.Module):
            from torch._dynamo.eval_frame import OptimizedModule

            self._calls[0].close()
            begin, end = self._guarded(self._root_called), self._guarded(self._root_returned)
            self._calls = [watch_calls(OptimizedModule, begin, end)]

    def _guarded(self, callback: Callable[P, object]) -> Callable[P, None]:
        """Return a callback that is silent in forked children and while we ourselves compute, and whose time counts."""

        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            if self._busy or self.closed or os.getpid() != self._pid:
                return
            self._busy = True
            began = time.perf_counter()
            try:
                callback(*args, **kwargs)
            finally:
                self._busy = False
                spent = time.perf_counter() - began
                self.budget.spent += spent
                hook_time.seconds += spent
                if self.step is not None:
                    # What ending the step before took has been counted as that one's.
                    self.step.spent += spent - self._credited
                    self._credited = 0.0

        return guarded

    # How values leave.

    def _keep(self, name: str, tensor: Tensor, plan: Plan) -> None:
        for collection in plan.collections:
            self.member(collection, name)
        if plan.whole and self.step is not None:
            self.writer.tensor(name, self.step.number, self.step.mode, as_array(tensor), self.step.at)

    def _drain(self, wait: bool) -> None:
        while self._arriving and (wait or self._arriving[0][1].here or len(self._arriving) > _ON_THEIR_WAY):
            step, arriving = self._arriving.pop(0)
            values = arriving.read()
            self.writer.row(step.number, step.mode, tuple(values), np.array(list(values.values())), step.at)
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


def _trainable(model: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


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
