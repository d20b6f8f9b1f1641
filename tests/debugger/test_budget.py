"""The budget: which steps it lets be saved, and how it finds its way back."""

from __future__ import annotations

import pytest

from finepoint.debugger import budget as module
from finepoint.debugger.budget import Budget
from finepoint.debugger.modes import ModeKeys

TRAIN = ModeKeys.TRAIN


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that goes only when it is told to: its time is the last item."""
    times = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: times[-1])
    return times


def _steps(budget: Budget, clock: list[float], costs: list[float], seconds: float) -> None:
    for cost in costs:
        clock.append(clock[-1] + seconds)
        budget.step_ended(TRAIN, False, cost)


def test_where_steps_are_tiny_only_some_are_recorded(clock: list[float]) -> None:
    budget = Budget(0.03)
    _steps(budget, clock, [5e-5] * 50, 5e-4)  # a tenth of the time, eleven times the share of 0.9 %
    assert budget.stride == 11


def test_a_step_in_which_the_machine_was_elsewhere_does_not_count(clock: list[float]) -> None:
    budget = Budget(0.03)
    _steps(budget, clock, [5e-6] * 49 + [30.0], 1e-2)
    assert budget.stride == 1


def test_where_steps_have_become_longer_more_are_recorded_again(clock: list[float]) -> None:
    budget = Budget(0.03)
    _steps(budget, clock, [5e-5] * 50, 5e-4)
    _steps(budget, clock, [5e-5] * 50, 1.0)
    assert budget.stride == 1


def test_one_dear_step_does_not_end_saving(clock: list[float]) -> None:
    budget = Budget(0.03)
    budget.step_ended(TRAIN, True, 0.01)
    budget.step_ended(TRAIN, True, 60.0)
    clock.append(clock[-1] + 10.0)
    assert budget.affords(TRAIN, 1000)
