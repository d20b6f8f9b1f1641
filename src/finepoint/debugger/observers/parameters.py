"""Parameters: their values, their gradients as the optimizer finds them, and how far a step moves them."""

from __future__ import annotations

import torch
from torch import Tensor

from finepoint.debugger.collection import CollectionKeys
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recorder import Recorder, Step
from finepoint.debugger.reductions import measurable, scattered
from finepoint.instrumentation import STEP_BEGIN, STEP_END


class Parameters:
    """Saves parameters at the beginning of a step.

    Frozen ones are saved the first time, and then only where something has changed them.
    """

    def __init__(self, recorder: Recorder, *, frozen_once: bool = True) -> None:
        self._recorder = recorder
        self._frozen_once = frozen_once
        self._versions: dict[str, int] = {}
        recorder.on_step_begin.append(self._step_begins)

    def _step_begins(self, step: Step) -> None:
        if not step.heavy:
            return
        due = []
        for name, parameter in self._recorder.names.parameters():
            if self._frozen_once and not parameter.requires_grad:
                if self._versions.get(name) == parameter._version:
                    continue
                self._versions[name] = parameter._version
            due.append((name, parameter))
        self._recorder.save_all(due, "weight")


class Gradients:
    """Saves gradients before the optimizer's step, and how far the step moved each parameter.

    Of large parameters a sample is looked at.
    """

    def __init__(self, recorder: Recorder, *, beyond: bool = True) -> None:
        self._recorder = recorder
        self._beyond = beyond
        self._before: list[tuple[str, Tensor, Tensor]] = []
        self._without: set[str] = set()
        self._wanted: frozenset[str] = frozenset()
        recorder.on_step_begin.append(self._step_begins)
        recorder.watch(STEP_BEGIN, self._optimizer_begins)
        if beyond:
            recorder.watch(STEP_END, self._optimizer_ends)

    def _step_begins(self, step: Step) -> None:
        if not self._beyond:
            self._wanted = step.active
        elif step.mode is ModeKeys.TRAIN:
            # Gradients that are accumulated over several steps are saved if one of them was to be saved.
            self._wanted |= step.active

    def _optimizer_begins(self, optimizer: torch.optim.Optimizer) -> None:
        recorder, step = self._recorder, self._recorder.step
        if step is None or not self._wanted:
            return
        step.active |= self._wanted
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        named = [(name, item) for item in held if (name := recorder.names.parameter(item)) is not None]
        gradients = [(f"gradient/{name}", item.grad) for name, item in named if item.grad is not None]
        recorder.save_all(gradients, "gradient")
        if not self._beyond:
            self._wanted = frozenset()
            return
        if CollectionKeys.OPTIMIZER_VARIABLES in step.active:
            for name, item in named:
                for variable, value in optimizer.state.get(item, {}).items():
                    recorder.save(f"optimizer/{variable}/{name}", value, "other")
        for name, gradient in gradients:
            if (ready := measurable(gradient)) is not None:
                ready = scattered(ready)
                recorder.put(f"zero_fraction/{name}", 1 - torch.count_nonzero(ready) / ready.numel())
        without = {name for name, item in named if item.grad is None}
        if without != self._without:
            self._without = without
            recorder.writer.fact("no_gradient", step.number, step.mode, parameters=sorted(without))
        self._before = [
            (name, item, scattered(ready).clone())
            for name, item in named
            if item.grad is not None and (ready := measurable(item)) is not None
        ]

    def _optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None:
        before, self._before = self._before, []
        for name, parameter, earlier in before:
            now = measurable(parameter)
            if now is not None:
                moved = torch.linalg.vector_norm(scattered(now) - earlier)
                self._recorder.put(f"update_ratio/{name}", moved / torch.linalg.vector_norm(earlier))
        self._wanted = frozenset()
        self._recorder.flush()
