"""Programs of ours tell the clock of their process what they do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from finepoint.profiler import context
from finepoint.profiler.context import elsewhere, part, phase, profiled, training_loop, waited_for
from finepoint.profiler.phases import Mode
from finepoint.profiler.recording import ProfilerRecording, open_recording, total


def recorded(folder: Path) -> ProfilerRecording:
    return open_recording(folder)


def spin(times: int = 20_000) -> None:
    for _ in range(times):
        pass


def test_without_a_clock_nothing_is_written(tmp_path: Path) -> None:
    with profiled(None), part("check"), phase("forward"), elsewhere(), training_loop() as loop, loop.forward:
        loop.stepped(1)
    assert list(waited_for([1, 2])) == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_rows_belong_to_parts_and_what_is_done_in_them_to_phases(tmp_path: Path) -> None:
    with profiled(tmp_path):
        with part("features"), phase("forward"):
            for _ in waited_for(range(3)):
                spin()
        with part("training"), training_loop() as loop:
            for _ in range(4):
                with loop.forward:
                    spin()
                with loop.backward:
                    spin()
                loop.stepped(8)
    recording = recorded(tmp_path)
    features, training = recording.parts()
    assert (features["name"], training["name"]) == ("features", "training")
    assert features["phases"]["forward"] > 0.5
    assert features["phases"]["data_wait"] > 0
    assert training["phases"]["backward"] > 0.2
    assert sum(recording.phases().values()) == pytest.approx(1)
    assert total(recording.steps, "steps") == 4
    assert total(recording.steps, "samples") == 32
    assert features["seconds"] + training["seconds"] <= recording.loop_seconds
    assert recording.facts["moments"] > 20


def test_what_another_process_does_meanwhile_is_in_none_of_its_rows(tmp_path: Path) -> None:
    with profiled(tmp_path), part("tuning"):
        with elsewhere():
            spin(1_000_000)
        with phase("evaluation"):
            spin(1_000)
    assert recorded(tmp_path).parts()[0]["phases"]["other"] < 0.9


def test_of_two_loops_at_once_one_has_the_clock(tmp_path: Path) -> None:
    with profiled(tmp_path), training_loop() as first:
        with first.forward:
            spin()

        def second() -> None:
            with training_loop() as loop, loop.forward:
                loop.stepped(1)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        first.stepped(1)
    assert total(recorded(tmp_path).steps, "steps") == 1


def test_a_process_that_is_recorded_from_its_start_has_start_up(tmp_path: Path) -> None:
    with profiled(tmp_path, whole_process=True):
        with phase("weights"):
            spin()
        with part("training"):
            spin()
    recording = recorded(tmp_path)
    assert (recording.steps["mode"] == Mode.STARTUP).sum() == 1
    assert set(recording.startup()) == {"import", "weights", "data_listing", "other"}
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
