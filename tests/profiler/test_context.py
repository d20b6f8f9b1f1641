"""Programs of ours tell the clock of their process what they do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from finepoint.profiler import context
from finepoint.profiler.context import elsewhere, part, phase, profiled, training_loop, waited_for
from finepoint.profiler.phases import Mode, PhaseClock
from finepoint.profiler.recording import ProfilerRecording, open_recording, total


def recorded(folder: Path) -> ProfilerRecording:
    return open_recording(folder)


class Time:
    """A clock that goes on when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(context, "PhaseClock", partial(PhaseClock, clock=made, cpu_clock=made))
    return made


def test_without_a_clock_nothing_is_written(tmp_path: Path) -> None:
    with profiled(None), part("check"), phase("forward"), elsewhere(), training_loop() as loop, loop.forward:
        loop.stepped(1)
    assert list(waited_for([1, 2])) == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_rows_belong_to_parts_and_what_is_done_in_them_to_phases(tmp_path: Path, time: Time) -> None:
    def batches() -> Iterator[int]:
        for number in range(3):
            time.go(1)
            yield number

    with profiled(tmp_path):
        with part("features"), phase("forward"):
            for _ in waited_for(batches()):
                time.go(3)
        with part("training"), training_loop() as loop:
            for _ in range(4):
                with loop.forward:
                    time.go(1)
                with loop.backward:
                    time.go(2)
                loop.stepped(8)
            loop.boundary()
            time.go(4)
    recording = recorded(tmp_path)
    features, training = recording.parts()
    assert (features["name"], features["seconds"]) == ("features", pytest.approx(12, abs=1e-3))
    assert features["phases"]["forward"] == pytest.approx(0.75, abs=1e-3)
    assert features["phases"]["data_wait"] == pytest.approx(0.25, abs=1e-3)
    assert (training["name"], training["seconds"]) == ("training", pytest.approx(16, abs=1e-3))
    assert training["phases"]["backward"] == pytest.approx(0.5, abs=1e-3)
    assert training["phases"]["other"] == pytest.approx(0.25, abs=1e-3)
    assert sum(recording.phases().values()) == pytest.approx(1, abs=1e-3)
    assert total(recording.steps, "steps") == 4
    assert total(recording.steps, "samples") == 32
    assert recording.facts["moments"] > 20
    # What comes after the last step is none of a step's.
    assert total(recording.steps.where(recording.steps["mode"] == Mode.TRAIN), "phase/other") == 0


def test_what_another_process_does_meanwhile_is_in_none_of_its_rows(tmp_path: Path, time: Time) -> None:
    with profiled(tmp_path), part("tuning"):
        with elsewhere():
            time.go(100)
        with phase("evaluation"):
            time.go(1)
    assert recorded(tmp_path).parts()[0]["seconds"] == pytest.approx(1, abs=1e-3)


def test_of_two_loops_at_once_one_has_the_clock(tmp_path: Path, time: Time) -> None:
    with profiled(tmp_path), part("tuning"), training_loop() as first:
        with first.forward:
            time.go(1)

        def second() -> None:
            with training_loop() as loop, loop.backward:
                time.go(1)
                loop.stepped(1)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        first.stepped(1)
    recording = recorded(tmp_path)
    assert total(recording.steps, "steps") == 1
    assert recording.phases()["other"] == pytest.approx(0.5, abs=1e-3)


def test_a_process_that_is_recorded_from_its_start_has_start_up(tmp_path: Path) -> None:
    with profiled(tmp_path, whole_process=True):
        with phase("weights"):
            pass
        with part("training"):
            pass
    recording = recorded(tmp_path)
    assert (recording.steps["mode"] == Mode.STARTUP).sum() == 1
    assert set(recording.startup()) == {"import", "weights", "data_listing", "other"}
    assert recording.startup()["import"] > 0
    assert recording.parts()[0]["name"] == "startup"


def test_a_full_disk_costs_the_profile_and_not_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("finepoint.profiler.segments.write_bytes", full)
    monkeypatch.setattr("finepoint.profiler.segments.SEAL_SECONDS", 0.0)
    with profiled(tmp_path), part("training"), training_loop() as loop:
        loop.stepped(1)
    assert context._clock is None
    assert not (tmp_path / "steps").exists()
