"""The outermost module is told of, paused or not, whoever else wraps modules' calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from finepoint import loops
from finepoint.instrumentation import Subscription
from finepoint.loops import watch_outermost


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Check that modules' calls are as they were."""
    before = vars(nn.Module)["__call__"]
    yield
    assert vars(nn.Module)["__call__"] is before


@pytest.fixture
def told() -> list[tuple[str, bool]]:
    """What was told: the module's class, and whether it begins."""
    return []


@pytest.fixture
def watching(told: list[tuple[str, bool]]) -> Iterator[Subscription]:
    """Watch during a test."""
    subscription = watch_outermost(lambda module, begins: told.append((type(module).__name__, begins)))
    yield subscription
    subscription.close()


def run() -> None:
    nn.Sequential(nn.Linear(2, 2), nn.ReLU())(torch.zeros(1, 2))


ONCE = [("Sequential", True), ("Sequential", False)]


def test_only_the_outermost_is_told_of_and_nothing_while_paused(
    told: list[tuple[str, bool]], watching: Subscription
) -> None:
    run()
    watching.pause()
    run()
    assert told == ONCE
    watching.resume()
    run()
    assert told == 2 * ONCE


@pytest.mark.parametrize("most", [0, 500])
def test_another_that_wraps_calls_may_come_and_go(
    told: list[tuple[str, bool]], watching: Subscription, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(loops, "_MOST_CHANGES", most)
    below, seen = nn.Module.__call__, []

    def another(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(module)
        return below(module, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "__call__", another)
        for _ in range(3):
            watching.pause()
            run()
            watching.resume()
            run()
    assert told == 3 * ONCE and len(seen) == 6 * 3
    watching.pause()
    run()
    watching.resume()
    run()
    assert told == 4 * ONCE


def test_after_so_many_changes_the_class_is_changed_no_more(
    told: list[tuple[str, bool]], watching: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "_MOST_CHANGES", 6)
    for turn in range(10):
        watching.pause()
        run()
        watching.resume()
        run()
        assert told == (turn + 1) * ONCE
    patched = vars(nn.Module)["__call__"]
    watching.pause()
    assert vars(nn.Module)["__call__"] is patched
