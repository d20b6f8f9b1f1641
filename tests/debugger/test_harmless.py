"""Recording changes nothing: weights, optimizer states and random states are equal to the last bit with and without."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.debugger.models import Net, attached, batches, recorded
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from finepoint.debugger import modes

Forward = Callable[[nn.Module, Tensor, Tensor], Tensor]


def _plain(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(images), labels)


def _autocast(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return functional.cross_entropy(model(images), labels)


def _run(forward: Forward, accumulate: int = 1, wrap: Callable[[nn.Module], Any] | None = None) -> dict[str, Any]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = Net()
    wrapped = None if wrap is None else wrap(model)
    called = model if wrapped is None else wrapped
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    data = list(batches(6))
    loader = DataLoader(
        TensorDataset(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])), 8, shuffle=True
    )
    for _ in range(2):
        called.train()
        for number, (images, labels) in enumerate(loader):
            if number % accumulate == 0:
                optimizer.zero_grad()
            forward(called, images, labels).backward()
            if number % accumulate == accumulate - 1:
                optimizer.step()
        schedule.step()
        called.eval()
        with torch.no_grad():
            loss = forward(called, *data[0])
    return {
        "weights": model.state_dict(),
        "moments": [state["exp_avg_sq"] for state in optimizer.state_dict()["state"].values()],
        "loss": loss,
        "random": (torch.get_rng_state(), random.random(), np.random.rand()),
    }


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("share", [1e9, 1e-6], ids=["every step saved", "most passed over"])
@pytest.mark.parametrize(("forward", "accumulate"), [(_plain, 1), (_autocast, 1), (_plain, 3)])
def test_shared_modules_dropout_autocast_accumulation(
    tmp_path: Path, forward: Forward, accumulate: int, share: float
) -> None:
    without = _run(forward, accumulate)
    with attached(tmp_path, share):
        with_ = _run(forward, accumulate)
    assert _equal(without, with_)
    recording = recorded(tmp_path)
    assert recording.steps(modes.EVAL) == [0, 1]
    assert share < 1 or recording.steps(modes.TRAIN) == list(range(12))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["a compiled module", "a module that compiles itself"])
def test_compiled(tmp_path: Path, how: str) -> None:
    def wrap(model: nn.Module) -> Any:
        return torch.compile(model, backend="eager") if how == "a compiled module" else model.compile(backend="eager")

    torch._dynamo.reset()
    without = _run(_plain, wrap=wrap)
    torch._dynamo.reset()
    with attached(tmp_path):
        with_ = _run(_plain, wrap=wrap)
    torch._dynamo.reset()
    assert _equal(without, with_)
    recording = recorded(tmp_path)
    assert recording.steps(modes.TRAIN) == list(range(12)) and len(recording.series("gradient/Net_fc.weight", "l2"))
    assert not recording.names("conv_output") and "torch.compile is used" in recording.notes[0]


def test_a_compiled_training_step(tmp_path: Path) -> None:
    def run() -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def step(images: Tensor) -> None:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), torch.zeros(3, dtype=torch.int64)).backward()

        torch._dynamo.reset()
        compiled = torch.compile(step, backend="eager")
        for _ in range(3):
            compiled(torch.randn(3, 4))
            optimizer.step()
        return model.weight.detach()

    without = run()
    with attached(tmp_path):
        with_ = run()
    assert torch.equal(without, with_)
    assert recorded(tmp_path).series("learning_rate/group0").steps.tolist() == [0, 1, 2]


def test_a_model_that_is_recorded_can_be_copied_and_saved_without_us(tmp_path: Path) -> None:
    model = Net()
    with attached(tmp_path / "recording"):
        for images, labels in batches(2):
            functional.cross_entropy(model(images), labels)
        copied = copy.deepcopy(model)
        torch.save(model, tmp_path / "whole.pt")
    assert b"finepoint" not in (tmp_path / "whole.pt").read_bytes()
    assert not copied._forward_hooks and not copied._forward_pre_hooks


def test_an_observer_that_fails_is_told_and_the_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finepoint import instrumentation

    monkeypatch.setattr(instrumentation, "failures", [])
    model = nn.Linear(2, 2)
    with attached(tmp_path) as recorder:
        recorder.watch(instrumentation.LOSS, lambda *_: 1 / 0)
        for _ in range(2):
            functional.cross_entropy(model(torch.zeros(1, 2)), torch.tensor([0]))
    assert len(instrumentation.failures) == 1 and "ZeroDivisionError" in capsys.readouterr().err
