"""Events: patched once for all who watch, gone when nobody does, harmless whatever a callback does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from finepoint import instrumentation
from finepoint.instrumentation import LOSS, SCHEDULE, watch_calls


def test_two_watchers_share_one_patch_and_the_last_takes_it_away() -> None:
    original, seen = functional.mse_loss, []
    one = LOSS.subscribe(lambda name, args, kwargs, output: seen.append(f"one {name}"))
    patched = functional.mse_loss
    two = LOSS.subscribe(lambda name, args, kwargs, output: seen.append(f"two {name}"))
    assert functional.mse_loss is patched is not original
    functional.mse_loss(torch.zeros(2), torch.ones(2))
    one.close()
    functional.mse_loss(torch.zeros(2), torch.ones(2))
    two.close()
    two.close()
    functional.mse_loss(torch.zeros(2), torch.ones(2))
    assert seen == ["one mse_loss", "two mse_loss", "two mse_loss"] and functional.mse_loss is original


def test_a_paused_watcher_is_not_called_and_costs_nothing() -> None:
    original, seen = functional.l1_loss, []
    watching = LOSS.subscribe(lambda name, *_: seen.append(name))
    watching.pause()
    assert functional.l1_loss is original
    functional.l1_loss(torch.zeros(1), torch.zeros(1))
    watching.resume()
    functional.l1_loss(torch.zeros(1), torch.zeros(1))
    watching.pause()
    watching.close()
    assert seen == ["l1_loss"] and functional.l1_loss is original


def test_a_patch_that_another_has_covered_does_nothing_more_once_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    watching = LOSS.subscribe(lambda name, *_: seen.append(name))
    ours = functional.huber_loss
    monkeypatch.setattr(functional, "huber_loss", lambda *args, **kwargs: ours(*args, **kwargs))
    watching.close()
    assert functional.huber_loss(torch.zeros(1), torch.zeros(1)).item() == 0 and seen == []
    again = LOSS.subscribe(lambda name, *_: seen.append(name))
    functional.huber_loss(torch.zeros(1), torch.zeros(1))
    again.close()
    assert seen == ["huber_loss"]


def test_a_callback_that_raises_is_dropped_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instrumentation, "failures", [])
    watching = LOSS.subscribe(lambda *_: 1 / 0)
    for _ in range(2):
        functional.l1_loss(torch.zeros(1), torch.zeros(1))
    watching.close()
    assert len(instrumentation.failures) == 1 and "no longer called" in capsys.readouterr().err


def test_schedules_of_every_kind_are_seen() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    seen: list[str] = []
    watching = SCHEDULE.subscribe(lambda schedule: seen.append(type(schedule).__name__))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    plateau.step(1.0)
    watching.close()
    assert seen == ["ReduceLROnPlateau"]


def test_calls_of_one_class_are_watched_and_its_subclasses_and_others_are_not() -> None:
    class Head(nn.Linear):
        pass

    seen: list[str] = []
    watching = watch_calls(
        nn.Linear, lambda module, args, kwargs: seen.append("begin"), lambda module, output: seen.append("end")
    )
    nn.Sequential(nn.Linear(1, 1), Head(1, 1), nn.ReLU())(torch.zeros(1, 1))
    watching.close()
    assert seen == ["begin", "end"] and "__call__" not in vars(nn.Linear)
