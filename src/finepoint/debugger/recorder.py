"""The recorder: counts a program's steps, decides what is saved of each, and gathers it from the observers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

from finepoint.debugger.budget import CALL_SECONDS, PASSED_OVER_SECONDS
from finepoint.debugger.gathering import Gatherer
from finepoint.debugger.gathering import Step as Step
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.naming import Names, unwrapped
from finepoint.debugger.selection import Selection
from finepoint.debugger.writing import RecordingWriter
from finepoint.instrumentation import (
    ACTIVATION,
    BACKWARD_BEGIN,
    BACKWARD_END,
    COMPILE,
    FORWARD_BEGIN,
    FORWARD_END,
    LOSS,
    ZERO_GRAD,
    Event,
    Subscription,
    watch_calls,
)
from finepoint.loops import hook_time

P = ParamSpec("P")
# Of a compiled function torch would trace what stands around these calls.
_TRACED: tuple[Event[Any], ...] = (LOSS, BACKWARD_BEGIN, BACKWARD_END, ZERO_GRAD)
# Where fewer steps are passed over than that, going to sleep and waking up costs more than it saves.
_WORTH_SLEEPING = 8


class Recorder(Gatherer):
    """Gathers what is recorded of this process.

    Observers add to `on_step_begin`, `on_step_end`, `on_module_end`, `on_activation` and `watch` events; what they note
    goes into the current step with `put` (one number), `save` (a tensor, reduced as its collections say) and
    `writer.fact`.

    Args:
        writer: of the recording.
        selection: what is saved of which tensors, and when.
        discover: whether models are found by being called; else only those given to `adopt` count.
        mode: of steps, from the start; None to read it off the model.
    """

    def __init__(
        self, writer: RecordingWriter, selection: Selection, *, discover: bool, mode: ModeKeys | None = None
    ) -> None:
        super().__init__(writer, selection, mode)
        self.names = Names()
        self.numbers = dict.fromkeys(ModeKeys, -1)
        self.compiled = False
        self.closed = False
        self.root: nn.Module | None = None
        # Copies of the root (averages of its weights) whose calls are steps as well.
        self.stand_ins: list[nn.Module] = []
        self.on_first_step: list[Callable[[], object]] = []
        self.on_model: list[Callable[[nn.Module], object]] = []
        self.on_step_begin: list[Callable[[Step], object]] = []
        self.on_step_skipped: list[Callable[[ModeKeys, int], object]] = []
        self.on_step_end: list[Callable[[Step], object]] = []
        self.on_module_end: list[Callable[[str, nn.Module, tuple[Any, ...], Any], object]] = []
        self.on_activation: list[Callable[[str, nn.Module, str, Tensor], object]] = []
        self.on_close: list[Callable[[], object]] = []
        self._save_next = False
        self._subscriptions: list[Subscription] = []
        # Those that are paused in steps that are passed over.
        self._sleeping: list[Subscription] = []
        # Those whose patches torch would trace into.
        self._traced: list[Subscription] = []
        self._modules: list[Subscription] = []
        self._calls: list[Subscription] = []
        # The modules whose calls have begun and not ended, the outermost first.
        self._inside: list[nn.Module] = []
        self._discover = discover
        self._busy = False
        self._awake = True
        self._pid = os.getpid()
        self._told = 0.0
        self._credited = 0.0
        self._waking = 0.0
        if discover:
            self.watch(COMPILE, self._compile)
            self._watch_modules()

    # What observers and the hook call.

    def watch(self, event: Event[P], callback: Callable[P, object], *, always: bool = False) -> Subscription:
        """Subscribe to an event until the recorder closes; the time the callback takes counts as spent.

        Where steps are so short that most are passed over, callbacks are not called in those, unless `always`.
        """
        subscription = event.subscribe(self._guarded(callback, always))
        self._subscriptions.append(subscription)
        if not always:
            self._sleeping.append(subscription)
        if event in _TRACED:
            self._traced.append(subscription)
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

    def save_next(self) -> None:
        """Have the next step saved whatever the budget says: something has gone wrong."""
        self._save_next = True

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
        light = self.selection.fixed or self.budget.light(number) or bool(active)
        self.step = Step(mode, number, self.total, light, active, args, kwargs or {})
        self._inside = []
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
        step.spent += self._credited + self._waking
        self._waking = 0.0
        if not self.selection.fixed and self.budget.step_ended(step.mode, step.heavy, step.spent):
            self.writer.note(
                f"steps are so short that loss, learning rate and the like are recorded at every "
                f"{self.budget.stride}th only, to keep to {100 * self.budget.share:g} % of the job's time"
            )
        if time.monotonic() - self._told > 1.0:
            self._told = time.monotonic()
            self._tell_cost()
            self._drain(True)
            self.writer.tick()

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
        self._calls = [self._watch_root(type(model))]

    def _watch_root(self, kind: type[nn.Module]) -> Subscription:
        begin, end = self._guarded(self._root_called, always=True), self._guarded(self._root_returned)

        def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._counts(module) and not self._passed_over(module):
                begin(module, args, kwargs)

        def returned(module: nn.Module, output: Any) -> None:
            if self._modules:
                end(module, output)

        return watch_calls(kind, called, returned)

    def _counts(self, module: nn.Module) -> bool:
        """Return whether a call of a module is a step."""
        return module is self.root or unwrapped(module) is self.root or any(module is one for one in self.stand_ins)

    def _passed_over(self, module: nn.Module) -> bool:
        """Count a step and return True where steps are so short that this one is not recorded at all."""
        stride = self.budget.stride
        if stride < _WORTH_SLEEPING or self._busy or os.getpid() != self._pid:
            return False
        mode = self._mode_of(module)
        number = self.numbers[mode] + 1
        if number % stride == 0 or self._save_next or self.budget.first(mode, number):
            self._wake(True)
            return False
        if self.step is not None:
            self._guarded(self.end_step, always=True)()
        self.numbers[mode] = number
        self.total += 1
        self.budget.spent += PASSED_OVER_SECONDS
        # What counts calls between steps needs to see the one before a step that is recorded.
        soon = (number + 1) % stride == 0 or self.budget.first(mode, number + 1)
        if soon is not self._awake:
            self._wake(soon)
        for tell in self.on_step_skipped:
            tell(mode, number)
        return True

    def _wake(self, wanted: bool) -> None:
        if wanted is self._awake:
            return
        began = time.perf_counter()
        self._awake = wanted
        for subscription in self._sleeping:
            subscription.resume() if wanted else subscription.pause()
        # Of the next step that is recorded: where few are passed over it is most of what that costs.
        self._waking += self._spend(time.perf_counter() - began)

    def _spend(self, seconds: float) -> float:
        """Count time as the recorder's, and return it."""
        self.budget.spent += seconds
        hook_time.seconds += seconds
        return seconds

    def _root_called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.begin_step(self._mode_of(module), args, kwargs)

    def _root_returned(self, module: nn.Module, output: Any) -> None:
        if not self._counts(module):
            return
        # The first time, and with several models, modules are called after the root that are to be seen as well.
        if not self._discover or (self.total > 0 and len(self.names.models) == 1):
            self._watch_modules(False)

    def _mode_of(self, module: nn.Module) -> ModeKeys:
        if self.mode is not None:
            return self.mode
        if not torch.is_grad_enabled():
            return ModeKeys.EVAL
        # Who keeps a frozen backbone in eval mode often says model.eval() and then model.head.train().
        training = module.training or any(part.training for part in module.modules())
        return ModeKeys.TRAIN if training else ModeKeys.EVAL

    def _module_called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside.append(module)
        if len(self._inside) > 1 or not self._discover or self.names.module(unwrapped(module)) is not None:
            return
        if next(module.parameters(), None) is None or isinstance(module, nn.modules.loss._Loss):
            return
        before = self.root
        self.adopt(module)
        if self.root is not before:
            self.begin_step(self._mode_of(module), args)
            self._inside = [module]

    def _module_returned(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._inside:
            self._inside.pop()
        if self.step is None or not self.step.heavy:
            return
        name = self.names.module(module)
        if name is not None:
            for tell in self.on_module_end:
                tell(name, module, args or tuple(kwargs.values()), output)

    def _activated(self, function: str, output: Any) -> None:
        """Tell of an activation that was called as a function, by the module whose forward it stands in."""
        if self.step is None or not self.step.heavy or not self._inside or not isinstance(output, Tensor):
            return
        owner = self._inside[-1]
        name = self.names.module(unwrapped(owner))
        if name is not None:
            for tell in self.on_activation:
                tell(name, owner, function, output)

    def _watch_modules(self, wanted: bool = True) -> None:
        if wanted and not self._modules:
            self._modules = [
                FORWARD_BEGIN.subscribe(self._guarded(self._module_called)),
                FORWARD_END.subscribe(self._guarded(self._module_returned)),
            ]
            if self.on_activation:
                self._modules.append(ACTIVATION.subscribe(self._guarded(self._activated)))
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
        if not isinstance(model, nn.Module):
            for subscription in self._traced:
                subscription.close()
            self.writer.note(
                "torch.compile is used on a function: only optimizers and data loaders are seen from here on, "
                "neither losses nor outputs; each optimizer step counts as a step"
            )
            return
        self.writer.note(
            "torch.compile is used: of the compiled model only its inputs, parameters and gradients are seen, "
            "not the outputs of the modules inside; losses only where they are computed outside"
        )
        inner = unwrapped(model)
        if self.names.module(inner) is None:
            self.names.add(inner)
            for tell in self.on_model:
                tell(inner)
        self._follow(inner)
        if isinstance(target, nn.Module):
            from torch._dynamo.eval_frame import OptimizedModule

            self._calls[0].close()
            self._calls = [self._watch_root(OptimizedModule)]

    def _guarded(self, callback: Callable[P, object], always: bool = False) -> Callable[P, None]:
        """Return a callback that is silent in forked children and while we ourselves compute, and whose time counts."""

        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            if not (self._awake or always) or self._busy or self.closed or os.getpid() != self._pid:
                return
            self._busy = True
            began = time.perf_counter()
            try:
                callback(*args, **kwargs)
            finally:
                self._busy = False
                spent = self._spend(time.perf_counter() - began + CALL_SECONDS)
                if self.step is not None:
                    # What ending the step before took has been counted as that one's.
                    self.step.spent += spent - self._credited
                    self._credited = 0.0

        return guarded


def _trainable(model: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())
