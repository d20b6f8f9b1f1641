"""The outermost module is told of, paused or not, whoever else wraps modules' calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from finepoint.instrumentation import Subscription
from finepoint.loops import OUTERMOST


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Check that modules' calls are as they were."""
    call: Any = nn.Module.__call__
    before = call.__code__
    yield
    assert nn.Module.__call__ is call and call.__code__ is before


@pytest.fixture
def told() -> list[tuple[str, bool]]:
    """What was told: the module's class, and whether it begins."""
    return []


@pytest.fixture
def watching(told: list[tuple[str, bool]]) -> Iterator[Subscription]:
    """Watch during a test."""
    subscription = OUTERMOST.subscribe(lambda module, begins: told.append((type(module).__name__, begins)))
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


def test_another_that_wraps_calls_may_come_and_go(
    told: list[tuple[str, bool]], watching: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.usefixtures("watching")
def test_a_module_that_raises_has_ended_too(told: list[tuple[str, bool]]) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        nn.Sequential(nn.Linear(2, 2))(torch.zeros(1, 3))
    run()
    assert told == 2 * ONCE


@pytest.mark.parametrize("at", [True, False])
def test_who_closes_while_a_module_runs_is_told_no_more(at: bool) -> None:
    told = []

    def close(module: nn.Module, begins: bool) -> None:
        told.append(begins)
        if begins is at:
            subscription.close()

    subscription = OUTERMOST.subscribe(close)
    run()
    run()
    assert told == ([True] if at else [True, False])


@pytest.mark.usefixtures("watching")
def test_a_compiled_module_is_told_of_once_and_compiled_as_ever(told: list[tuple[str, bool]]) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled = torch.compile(model, backend=count)
    function = torch.compile(lambda images: model(images) + 1, backend=count)
    images = torch.rand(3, 2)
    for _ in range(3):
        assert torch.equal(compiled(images), model(images))
    assert len(graphs) == 1
    assert told == 3 * [("OptimizedModule", True), ("OptimizedModule", False), *ONCE]
    del told[:]
    for _ in range(3):
        assert torch.equal(function(images), model(images) + 1)
    assert len(graphs) == 2, "nothing was compiled anew, or in parts"
    assert told == 3 * ONCE, "what a compiled function calls is inside of its graph"
