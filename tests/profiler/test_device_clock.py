"""Phases on the GPU are timed by events that nobody waits for; the GPU here is played."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.profiler.making import watched
from torch.utils.data import DataLoader, TensorDataset

from finepoint.profiler.attachment import StepRecorder
from finepoint.profiler.device_clock import DeviceClock
from finepoint.profiler.loading import LoadingRecorder
from finepoint.profiler.recording import open_recording


class Stream:
    """A GPU that works through what it was given when it is told to."""

    def __init__(self) -> None:
        self.given: list[float] = []
        self.done = 0
        self.made = 0

    def event(self) -> StreamEvent:
        self.made += 1
        return StreamEvent(self)

    def work(self, milliseconds: float) -> None:
        self.given.append(milliseconds)

    def run(self) -> None:
        self.done = len(self.given)


class StreamEvent:
    def __init__(self, stream: Stream) -> None:
        self.stream, self.place = stream, -1

    def record(self) -> None:
        self.place = len(self.stream.given)

    def query(self) -> bool:
        return self.stream.done >= self.place

    def elapsed_time(self, end_event: StreamEvent) -> float:
        assert end_event.query(), "it is over only when the stream has come to its end"
        return sum(self.stream.given[self.place : end_event.place])


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def clock(stream: Stream) -> DeviceClock:
    return DeviceClock(stream.event)


def phase(clock: DeviceClock, stream: Stream, name: str, milliseconds: float) -> None:
    clock.enter(name)
    stream.work(milliseconds)
    clock.leave(name)


def test_what_the_gpu_has_not_come_to_yet_is_given_out_later(clock: DeviceClock, stream: Stream) -> None:
    phase(clock, stream, "forward", 10)
    assert clock.take() == {}
    stream.run()
    phase(clock, stream, "backward", 20)
    assert clock.take() == {"forward": 0.01}
    stream.run()
    assert clock.take() == {"backward": 0.02}
    assert clock.take() == {}


def test_work_between_phases_and_of_others_belongs_to_none(clock: DeviceClock, stream: Stream) -> None:
    phase(clock, stream, "forward", 10)
    stream.work(99)
    phase(clock, stream, "checkpoint", 50)
    phase(clock, stream, "optimizer", 5)
    stream.run()
    assert clock.take() == {"forward": 0.01, "optimizer": 0.005}


def test_what_is_nested_is_counted_once(clock: DeviceClock, stream: Stream) -> None:
    clock.enter("optimizer")
    phase(clock, stream, "forward", 10)
    clock.leave("optimizer")
    stream.run()
    assert clock.take() == {"optimizer": 0.01}


def test_events_are_used_again(clock: DeviceClock, stream: Stream) -> None:
    for _ in range(10):
        phase(clock, stream, "forward", 1)
        stream.run()
        clock.take()
    assert stream.made == 2


def test_nothing_is_put_into_a_stream_that_is_being_captured(stream: Stream) -> None:
    clock = DeviceClock(stream.event, may_record=lambda: False)
    phase(clock, stream, "forward", 1)
    assert stream.made == 0


def test_rows_of_a_training_loop_have_the_time_on_the_gpu(tmp_path: Path, clock: DeviceClock, stream: Stream) -> None:
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.register_forward_hook(lambda *_: stream.work(3))
    recorder = StepRecorder(tmp_path, LoadingRecorder(tmp_path), device=clock)
    recorder.subscribe(cuda=False)
    for _ in range(8):
        loss = model(torch.rand(8, 4)).sum()
        stream.run()
        loss.backward()
        optimizer.step()
    recorder.close()
    # The first forward is before the loop: it begins, without a loader, with the first backward.
    assert open_recording(tmp_path).device_seconds()["forward"] == pytest.approx(0.003 * 8)


def test_a_loss_within_the_network_ends_nothing_of_it(tmp_path: Path, clock: DeviceClock, stream: Stream) -> None:
    class Network(torch.nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            loss = torch.nn.functional.mse_loss(super().forward(images), torch.zeros(8, 2))
            stream.work(3)
            return loss

    model = Network(4, 2)
    with watched(tmp_path, device=clock):
        for (images,) in DataLoader(TensorDataset(torch.rand(64, 4)), 8):
            model(images).backward()
            stream.run()
    assert open_recording(tmp_path).device_seconds()["forward"] == pytest.approx(0.003 * 8)


def test_a_phase_that_was_not_left_goes_on_to_the_next_batch_at_most(clock: DeviceClock, stream: Stream) -> None:
    clock.enter("optimizer")
    stream.work(2)
    clock.leave_all()
    stream.work(99)
    phase(clock, stream, "forward", 1)
    stream.run()
    assert clock.take() == {"optimizer": 0.002, "forward": 0.001}


def test_waits_for_the_gpu_are_timed_by_the_phase_that_they_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("finepoint.profiler.attachment.time.perf_counter", lambda: now[0])
    recorder = StepRecorder(tmp_path, LoadingRecorder(tmp_path))
    on_gpu, on_cpu = SimpleNamespace(is_cuda=True), SimpleNamespace(is_cuda=False)
    for phase, tensor in (("other", on_gpu), ("forward", on_gpu), ("data_wait", on_gpu), ("other", on_cpu)):
        recorder.clock.enter(phase)
        recorder._syncs(tensor, True)  # type: ignore[arg-type]
        now[0] += 0.25
        recorder._syncs(tensor, False)  # type: ignore[arg-type]
        recorder.clock.leave(phase)
    counts = recorder.clock._counts
    assert {name: counts[name] for name in counts if name.startswith("sync")} == {
        "syncs": 2,
        "sync/other": 0.25,
        "sync/forward": 0.25,
    }
