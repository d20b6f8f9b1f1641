"""Rows that are passed over are divided as those that were watched, and what is known of them is kept."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.profiler.making import watched
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import finepoint
from finepoint.profiler import phases
from finepoint.profiler.attachment import StepRecorder
from finepoint.profiler.passing import PassedRows, Stretch, Usual, grouped
from finepoint.profiler.phases import Mode, PhaseClock
from finepoint.profiler.recording import ProfilerRecording, open_recording, total

LONGEST_PASSED_SECONDS = 0.1
WATCHED = {"seconds": 1.0, "phase/data_wait": 0.2, "phase/forward": 0.6, "phase/other": 0.2, "data_wait_cpu": 0.1}


@pytest.fixture(autouse=True)
def longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass over rows that a busy machine has made longer, too."""
    monkeypatch.setattr(phases, "LONGEST_PASSED_SECONDS", LONGEST_PASSED_SECONDS)


def rows_of(*rows: tuple[float, float, float]) -> PassedRows:
    """Rows by when each began, when it ended, and how long it waited."""
    began, ended, waited = np.array(rows).T
    return PassedRows(began, ended, waited, ended - began - waited)


def test_computing_is_divided_as_in_the_rows_that_were_watched_and_waiting_is_as_told() -> None:
    usual = Usual()
    for _ in range(10):
        usual.learn(WATCHED | {"steps": 1.0, "samples": 16.0})
    found = usual.columns(rows_of((0.0, 1.0, 0.6), (1.0, 2.0, 0.2)), hook_share=0.1)
    assert found["seconds"] == 2.0 and found["longest"] == 1.0 and found["phase/hook"] == pytest.approx(0.2)
    assert found["phase/data_wait"] == pytest.approx(0.8) and found["data_wait_cpu"] == pytest.approx(0.4)
    assert found["phase/forward"] == pytest.approx(0.75) and found["phase/other"] == pytest.approx(0.25)
    assert (found["steps"], found["samples"]) == (2.0, 32.0)
    assert sum(value for name, value in found.items() if name.startswith("phase/")) == pytest.approx(2.0)


def test_computing_unlike_any_that_was_watched_is_other() -> None:
    found = Usual().columns(rows_of((0.0, 3.0, 1.0)), hook_share=0.0)
    assert (found["phase/data_wait"], found["phase/other"]) == (1.0, 2.0)


def test_later_rows_count_more() -> None:
    usual, row = Usual(), {"seconds": 1.0}
    assert not usual.knows(row)
    for forward in [0.0] * 200 + [1.0] * 200:
        usual.learn(row | {"phase/forward": forward, "phase/backward": 1 - forward})
    assert usual.knows(row)
    assert usual.columns(rows_of((0.0, 1.0, 0.0)), hook_share=0.0)["phase/forward"] > 0.9


def test_rows_are_divided_as_those_that_took_about_as_long() -> None:
    usual = Usual()
    for _ in range(10):
        usual.learn({"seconds": 1.1, "phase/forward": 1.1, "steps": 0.0, "samples": 16.0})
        usual.learn({"seconds": 9.0, "phase/optimizer": 9.0, "steps": 1.0, "samples": 16.0})
    rows = rows_of((0.0, 1.2, 0.0), (1.2, 13.2, 2.0), (13.2, 14.4, 0.0))
    found = usual.columns(rows, hook_share=0.0)
    assert found["phase/forward"] == pytest.approx(2.4) and found["phase/optimizer"] == pytest.approx(10.0)
    assert (found["steps"], found["samples"]) == (pytest.approx(1.0), pytest.approx(48.0))
    assert usual.columns(rows_of((0.0, 300.0, 0.0)), 0.0)["phase/optimizer"] == pytest.approx(300.0), "the nearest"


def test_rows_that_were_shorter_for_want_of_watching_are_divided_as_if_they_had_been_watched() -> None:
    usual = Usual()
    for _ in range(20):
        usual.learn({"seconds": 3.0, "phase/forward": 3.0, "steps": 0.0})
        usual.learn({"seconds": 3.0, "phase/forward": 3.0, "steps": 0.0})
        usual.learn({"seconds": 5.0, "phase/optimizer": 5.0, "steps": 1.0})
    rows = usual.as_watched(rows_of((0.0, 1.2, 0.0), (1.2, 3.0, 0.5), (3.0, 4.4, 0.0)))
    assert list(rows.computed) == [3.0, 3.0, 5.0]
    assert list(usual.as_watched(rows_of((0.0, 50.0, 0.0))).computed) == [50.0], "like none of them"
    found = usual.columns(rows, hook_share=0.0)
    assert found["steps"] == pytest.approx(1.0) and found["seconds"] == pytest.approx(4.4)
    assert found["phase/forward"] == pytest.approx(2.5) and found["phase/optimizer"] == pytest.approx(1.4)


def list_of(rows: PassedRows) -> list[tuple[float, float, float]]:
    """Each row's three numbers."""
    return list(zip(*(values.tolist() for values in rows[:3]), strict=True))


def test_a_stretch_has_the_rows_that_it_was_told_of_and_an_open_one() -> None:
    stretch = Stretch(10.0, loader=True)
    stretch.begins.extend((10.1, 0.05, 11.0, 0.2))
    assert stretch.begun == 2
    assert list_of(stretch.rows(11.5)) == [(10.0, 11.0, 0.05), (11.0, 11.5, 0.2)]
    without = Stretch(10.0, loader=False)
    without.begins.extend((10.5, 0.0))
    assert list_of(without.rows(11.0)) == [(10.0, 10.5, 0.0), (10.5, 11.0, 0.0)]
    assert list_of(Stretch(10.0, loader=True).rows(10.5)) == [(10.0, 10.5, 0.0)]


def test_a_slow_row_among_short_ones_stands_alone() -> None:
    rows = rows_of(*((at, at + took, 0.0) for at, took in ((0, 1), (1, 1), (2, 9), (11, 9), (20, 1))))
    assert [list(group.seconds) for group in grouped(rows, 5.0)] == [[1, 1], [9], [9], [1]]
    assert not list(grouped(rows.where(slice(0)), 5.0))


class Small(nn.Module):
    """A network whose forward takes two milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.optimizer = torch.optim.SGD(self.parameters(), 0.01)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        spin(0.002)
        return self.layer(images)

    def step(self, images: torch.Tensor) -> None:
        """Train with a batch."""
        self.optimizer.zero_grad()
        self(images).sum().backward()
        self.optimizer.step()


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class Trained(NamedTuple):
    """What was recorded of a training, and its phases as shares of its time, taken by its own loop."""

    recording: ProfilerRecording
    own: dict[str, float]


def trained(folder: Path, *, batches: int, after_step: Callable[[int], None] = lambda step: None) -> Trained:
    """Train for an epoch whose forward takes two milliseconds a step."""
    model, criterion = Small(), nn.CrossEntropyLoss()
    images = torch.rand(16 * batches, 4)
    loader = DataLoader(TensorDataset(images, torch.zeros(len(images), dtype=torch.long)), 16)
    clock, seconds = time.perf_counter, dict.fromkeys(("data_wait", "forward", "backward", "optimizer"), 0.0)
    with watched(folder):
        began = left = clock()
        for step, (x, y) in enumerate(loader):
            came = clock()
            loss = criterion(model(x), y)
            computed = clock()
            model.optimizer.zero_grad()
            cleared = clock()
            loss.backward()
            went_back = clock()
            model.optimizer.step()
            stepped = clock()
            seconds["data_wait"] += came - left
            seconds["forward"] += computed - came
            seconds["backward"] += went_back - cleared
            seconds["optimizer"] += stepped - went_back
            after_step(step)
            left = clock()
        took = clock() - began
    recording = open_recording(folder)
    assert recording.loop_seconds == pytest.approx(took, abs=0.3), "no time is lost or counted twice"
    return Trained(recording, {phase: spent / took for phase, spent in seconds.items()})


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in one thread and measure its own seconds of the processor: so a busy machine has no part in them.

    Nor has the collecting of all that other tests have left behind.
    """
    monkeypatch.setattr(time, "perf_counter", time.thread_time)
    monkeypatch.setitem(PhaseClock.__init__.__kwdefaults__, "clock", time.thread_time)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()
    yield
    gc.enable()
    torch.set_num_threads(threads)


@pytest.fixture
def told_of_forward(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the recorder was told of the outermost module."""
    told: list[bool] = []
    original = StepRecorder._outer
    monkeypatch.setattr(
        StepRecorder, "_outer", lambda self, module, begins: (told.append(begins), original(self, module, begins))[1]
    )
    return told


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("passing", [True, False])
def test_short_steps_have_the_phases_that_they_had_passed_over_or_not(
    tmp_path: Path, told_of_forward: list[bool], monkeypatch: pytest.MonkeyPatch, passing: bool
) -> None:
    if not passing:
        monkeypatch.setattr(StepRecorder, "_may_pass", lambda self: False)
    recording, own = trained(tmp_path, batches=600)
    if passing:
        assert len(told_of_forward) < 0.8 * 4 * 600, "not each of them was told of; on a busy machine more are"
    else:
        assert len(told_of_forward) == 4 * 600, "each forward and each loss was"
    assert total(recording.loop, "steps") == pytest.approx(600)
    assert total(recording.loop, "samples") == pytest.approx(16 * 600)
    assert total(recording.loading, "fetches") == pytest.approx(600)
    shares = recording.phases()
    assert sum(shares.values()) == pytest.approx(1)
    assert {phase: shares[phase] for phase in own} == pytest.approx(own, abs=0.08)


def test_a_slow_step_is_seen_among_those_passed_over(tmp_path: Path) -> None:
    rows = trained(tmp_path, batches=300, after_step=lambda step: time.sleep(0.8 * (step == 250))).recording.loop
    slow = rows.where(rows["longest"] > 0.7)  # less may be a busy machine's doing
    assert len(slow) == 1 and slow["steps"][0] == pytest.approx(1) and slow["seconds"][0] < 2.0
    assert total(rows, "steps") == pytest.approx(300)


def test_a_checkpoint_among_steps_passed_over_has_its_time(tmp_path: Path) -> None:
    def save(step: int) -> None:
        if step == 250:
            torch.save({"weights": torch.rand(4_000_000)}, tmp_path / "checkpoint.pt")

    began = time.perf_counter()
    loop = trained(tmp_path, batches=300, after_step=save).recording.loop
    assert total(loop, "saves") == 1
    assert 0 < total(loop, "phase/checkpoint") < time.perf_counter() - began


def test_what_comes_after_an_epoch_is_not_waiting_for_data(tmp_path: Path) -> None:
    for batches in (4, 200):  # all watched; passed over at the end
        folder = tmp_path / str(batches)
        model = Small()
        loader = DataLoader(TensorDataset(torch.rand(16 * batches, 4)), 16)
        with watched(folder):
            for _ in range(2):
                for (x,) in loader:
                    model.step(x)
                time.sleep(0.5)
        loop = open_recording(folder).loop
        assert total(loop, "phase/data_wait") < 0.5
        assert total(loop, "phase/other") > 1.0


def test_rows_of_a_loop_without_a_loader_end_with_its_steps(tmp_path: Path, told_of_forward: list[bool]) -> None:
    model = Small()
    with watched(tmp_path):
        for _ in range(300):
            model.step(torch.rand(16, 4))
    assert len(told_of_forward) < 0.8 * 2 * 300
    loop = open_recording(tmp_path).loop
    assert total(loop, "steps") == pytest.approx(300)
    assert total(loop, "phase/forward") / total(loop, "seconds") > 0.4


def test_evaluation_is_passed_over_too_and_stays_evaluation(tmp_path: Path) -> None:
    model = Small().eval()
    loader = DataLoader(TensorDataset(torch.rand(16 * 200, 4)), 16)
    with watched(tmp_path):
        for _ in range(2):
            for (x,) in loader:
                model.step(x)
            with torch.no_grad():
                for (x,) in loader:
                    model(x)
    rows = open_recording(tmp_path).loop
    evaluating = rows.where(rows["mode"] == Mode.EVALUATION)
    assert total(evaluating, "forwards") == pytest.approx(400, abs=10)
    assert total(evaluating, "steps") == 0
    assert total(rows, "steps") == pytest.approx(400, abs=2)


def test_a_job_that_ends_amid_steps_passed_over_keeps_them(tmp_path: Path) -> None:
    model, loader = Small(), DataLoader(TensorDataset(torch.rand(16 * 400, 4)), 16)
    with watched(tmp_path):
        for number, (x,) in enumerate(loader):
            model.step(x)
            if number == 299:
                break
    recording = open_recording(tmp_path)
    assert total(recording.loop, "steps") == pytest.approx(300, abs=1)
    assert total(recording.loading, "fetches") == pytest.approx(300, abs=2)


def test_waiting_for_two_loaders_at_once_is_all_waiting(tmp_path: Path) -> None:
    class Slow(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            spin(0.0005)
            return super().__getitem__(index)

    model = Small()
    loaders = [DataLoader(Slow(torch.rand(600, 4)), 2) for _ in range(2)]
    with watched(tmp_path):
        for (one,), (other,) in zip(*loaders, strict=True):
            model.step(one + other)
    shares = open_recording(tmp_path).phases()
    assert 0.25 < shares["data_wait"] < 0.75, "a millisecond for each of two, beside two of computing"


def test_nothing_of_ours_is_called_for_a_step_passed_over_but_the_loaders_iterator(tmp_path: Path) -> None:
    model, loader = Small(), DataLoader(TensorDataset(torch.rand(16 * 300, 4)), 16)
    ours = Path(finepoint.__file__).parent
    called: dict[bool, set[str]] = {True: set(), False: set()}
    with watched(tmp_path) as recorder:
        passing = False

        def see(frame: FrameType, event: str, argument: object) -> None:
            place = Path(frame.f_code.co_filename)
            if event == "call" and place.is_relative_to(ours):
                called[passing].add(f"{place.name}:{frame.f_code.co_name}")

        batches = iter(loader)
        for _ in range(len(loader)):
            before, seen = recorder.passing, set(called[True])
            passing = before
            sys.setprofile(see)
            model.step(next(batches)[0])
            sys.setprofile(None)
            if not (before and recorder.passing):  # the stretch ended with it
                called[True] = seen
    assert called[True] == {"batches.py:__next__", "batches.py:note"}
    assert "attachment.py:_outer" in called[False]


def test_steps_long_enough_to_be_rows_are_all_watched(tmp_path: Path, told_of_forward: list[bool]) -> None:
    trained(tmp_path, batches=20, after_step=lambda step: time.sleep(1.1 * LONGEST_PASSED_SECONDS))
    assert len(told_of_forward) >= 2 * 2 * 20


def test_patches_do_not_pile_up_where_another_has_covered_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils import fetch

    kind = fetch._MapDatasetFetcher
    monkeypatch.setattr(kind, "fetch", vars(kind)["fetch"])
    monkeypatch.setattr(torch.autograd, "backward", torch.autograd.backward)
    depths = []

    def depth_of(function: Callable[..., object]) -> int:
        depth = 0
        while (function := getattr(function, "__wrapped__", None)) is not None:
            depth += 1
        return depth

    def cover(step: int) -> None:
        if step == 2:  # another's patch over ours
            ours = torch.autograd.backward

            def backward(*args: object, **kwargs: object) -> object:
                return ours(*args, **kwargs)

            backward.__wrapped__ = ours
            torch.autograd.backward = backward
        depths.append(depth_of(torch.autograd.backward))

    trained(tmp_path, batches=600, after_step=cover)
    assert depths[-1] == depths[2] == 2


def test_a_job_that_ends_while_its_network_is_looked_at_leaves_nothing_behind(tmp_path: Path) -> None:
    with watched(tmp_path):
        for _ in range(4):
            Small().step(torch.rand(16, 4))
        assert torch.nn.modules.module._has_any_global_hook()
    assert not torch.nn.modules.module._has_any_global_hook()
