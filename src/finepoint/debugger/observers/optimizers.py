"""Optimizers: which parameters they hold, their learning rate, and what happens between their steps."""

from __future__ import annotations

from typing import Any

import torch

from finepoint.debugger.recorder import Recorder
from finepoint.instrumentation import BACKWARD_END, SCHEDULE, STEP_BEGIN, STEP_END, ZERO_GRAD


class Optimizers:
    """Describes optimizers and schedules once, and records learning rates and what was called at every step."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._numbers: dict[int, tuple[int, torch.optim.Optimizer]] = {}
        self._schedules: set[int] = set()
        self._backwards = self._zeroings = 0
        recorder.watch(STEP_BEGIN, self._begins)
        recorder.watch(STEP_END, self._ends)
        recorder.watch(BACKWARD_END, self._went_backward)
        recorder.watch(ZERO_GRAD, self._zeroed)
        recorder.watch(SCHEDULE, self._scheduled)

    def _begins(self, optimizer: torch.optim.Optimizer) -> None:
        recorder = self._recorder
        if recorder.step is None and recorder.root is None:
            # Nothing was seen to be called (a compiled function): the optimizer's steps are the steps.
            recorder.begin_step(*_mode(recorder))
        if id(optimizer) not in self._numbers:
            self._numbers[id(optimizer)] = (len(self._numbers), optimizer)
            self._describe(optimizer)
        number = self._numbers[id(optimizer)][0]
        step = recorder.step
        if step is None or not step.light:
            self._backwards = self._zeroings = 0
            return
        prefix = "learning_rate" if number == 0 else f"learning_rate/optimizer{number}"
        for place, group in enumerate(optimizer.param_groups):
            recorder.put(f"{prefix}/group{place}", float(group["lr"]))
        if number == 0:
            recorder.put("backward_calls", float(self._backwards))
            recorder.put("zero_grad_calls", float(self._zeroings))
            self._backwards = self._zeroings = 0

    def _ends(self, optimizer: torch.optim.Optimizer) -> None:
        if self._recorder.root is None:
            self._recorder.end_step()

    def _went_backward(self, tensors: Any) -> None:
        self._backwards += 1

    def _zeroed(self, whose: Any) -> None:
        self._zeroings += 1

    def _describe(self, optimizer: torch.optim.Optimizer) -> None:
        names, groups, strangers = self._recorder.names, [], 0
        for group in optimizer.param_groups:
            held = [names.parameter(item) for item in group["params"]]
            strangers += held.count(None)
            settings = {
                key: value
                for key, value in group.items()
                if isinstance(value, int | float | bool | tuple | list) and key != "params"
            }
            groups.append({**settings, "lr": float(group["lr"]), "parameters": [name for name in held if name]})
        held_ids = {
            id(item) for _, known in self._numbers.values() for group in known.param_groups for item in group["params"]
        }
        missing = [name for name, item in names.parameters() if item.requires_grad and id(item) not in held_ids]
        step = self._recorder.step
        self._recorder.writer.fact(
            "optimizer",
            step.number if step else None,
            step.mode if step else None,
            number=self._numbers[id(optimizer)][0],
            class_name=type(optimizer).__name__,
            groups=groups,
            not_in_optimizer=missing,
            not_in_model=strangers,
        )

    def _scheduled(self, schedule: Any) -> None:
        if id(schedule) in self._schedules:
            return
        # A schedule takes its first step while it is made; only one that an optimizer's step came before counts.
        optimizer = getattr(schedule, "optimizer", None)
        if id(optimizer) not in self._numbers:
            return
        self._schedules.add(id(schedule))
        self._recorder.writer.fact(
            "schedule", class_name=type(schedule).__name__, optimizer=self._numbers[id(optimizer)][0]
        )


def _mode(recorder: Recorder) -> tuple[Any]:
    from finepoint.debugger.modes import ModeKeys

    return (recorder.mode or ModeKeys.TRAIN,)
