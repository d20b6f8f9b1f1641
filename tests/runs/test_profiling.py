"""A run's profile is a guest: what befalls it does not befall the run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from finepoint.profiler.context import part, phase
from finepoint.runs.folder import RunFolder
from finepoint.runs.listener import Listener
from finepoint.runs.options import RunOptions
from finepoint.runs.profiling import RunProfile, profiler_summary


class Noting(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def listener() -> Iterator[Noting]:
    yield Noting()


def test_a_run_whose_sampler_is_killed_has_its_phases_all_the_same(tmp_path: Path, listener: Noting) -> None:
    folder = RunFolder(tmp_path / "run")
    with RunProfile(folder, listener) as profile:
        for process in psutil.Process().children():
            if "finepoint.profiler.sampler" in process.cmdline():
                os.kill(process.pid, signal.SIGKILL)
        with part("check"), phase("other"):
            pass
        profile.judge()
    summary = profiler_summary(folder)
    assert summary is not None
    assert sum(summary["phases"].values()) == pytest.approx(1)
    assert summary["datapoints"] == 0
    assert listener.notes == []


def test_a_run_goes_on_where_no_sampler_can_be_started(
    tmp_path: Path, listener: Noting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with RunProfile(RunFolder(tmp_path / "run"), listener) as profile:
        profile.judge()
        assert profile.environment() == {}
    assert len(listener.notes) == 1
    assert "not profiled" in listener.notes[0]


def test_a_damaged_recording_is_noted_and_costs_nothing_else(
    tmp_path: Path, listener: Noting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise ValueError("no array")

    monkeypatch.setattr("finepoint.runs.profiling.finish", damaged)
    with RunProfile(RunFolder(tmp_path / "run"), listener) as profile:
        profile.judge()
    assert listener.notes == ["The run's profile could not be judged: no array"]


def test_without_profile_nothing_is_started_and_jobs_are_told_nothing(tmp_path: Path) -> None:
    with RunProfile() as profile:
        profile.judge()
        assert profile.environment() == {}
    assert profiler_summary(RunFolder(tmp_path)) is None


def test_a_run_goes_on_with_or_without_a_profile() -> None:
    assert RunOptions("photos", profile=False).differences(RunOptions("photos")) == []
