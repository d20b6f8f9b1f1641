"""The context manager for loops that are ours: the model and copies of it, epochs, nothing at all when off."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from tests.debugger.models import recorded as read
from torch import nn
from torch.nn import functional

from finepoint.debugger import modes, recorded
from finepoint.debugger.budget import Budget


def test_the_average_of_a_head_is_evaluated_as_the_head(tmp_path: Path) -> None:
    head = nn.Linear(4, 3)
    average = copy.deepcopy(head)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    with recorded(head, tmp_path, stand_ins=[average], budget=1e9) as record:
        for _ in range(2):
            for _ in range(3):
                optimizer.zero_grad()
                functional.cross_entropy(head.train()(torch.randn(5, 4)), torch.zeros(5, dtype=torch.int64)).backward()
                optimizer.step()
            with torch.no_grad():
                functional.cross_entropy(average.eval()(torch.randn(5, 4)), torch.zeros(5, dtype=torch.int64))
            record.epoch_ended()
        record.scalar("accuracy", 0.5)
        assert record.overhead_fraction > 0
    recording = read(tmp_path)
    assert recording.steps(modes.TRAIN) == list(range(6)) and recording.steps(modes.EVAL) == [0, 1]
    told = [(fact["mode"], fact["number"], fact["first_step"], fact["last_step"]) for fact in recording.facts("pass")]
    assert told == [("TRAIN", 0, 0, 2), ("EVAL", 0, 0, 0), ("TRAIN", 1, 3, 5), ("EVAL", 1, 1, 1)]
    assert recording.series("scalar/accuracy", mode=modes.EVAL).values.tolist() == [0.5]


def test_off_means_nothing(tmp_path: Path) -> None:
    with recorded(nn.Linear(2, 2), None) as record:
        record.epoch_ended()
        record.scalar("x", 1.0)
        assert record.overhead_fraction == 0
        assert not torch.nn.modules.module._has_any_global_hook() and "__call__" not in vars(nn.Linear)


def test_the_budget_saves_the_first_steps_and_then_what_it_can_afford() -> None:
    budget = Budget(share=1e-9)
    assert budget.affords(modes.TRAIN, 7)  # the mode's first
    budget.step_ended(modes.TRAIN, True, 0.5)
    assert [step for step in range(20) if budget.affords(modes.TRAIN, step)] == [0, 1, 2, 4, 8]
    budget.step_ended(modes.EVAL, True, 0.5)
    assert not budget.affords(modes.EVAL, 1)
    rich = Budget(share=1e9)
    rich.step_ended(modes.TRAIN, True, 1e-3)
    assert rich.affords(modes.TRAIN, 77)
