"""Every finding has a picture of the series that it rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.profiler.making import recording, samples, step

from finepoint.profiler.checking import judge_own
from finepoint.profiler.plots import plots_of
from finepoint.profiler.recording import ProfilerRecording
from finepoint.profiler.rules.own_machine import MemoryLeak


def plotted(made: ProfilerRecording, rule: str) -> dict[str, Any]:
    plots = plots_of(made, judge_own(made))
    assert set(plots) == {result.rule for result in judge_own(made) if result.fired}
    return plots[rule]


@pytest.mark.parametrize(
    ("rule", "given", "words"),
    [
        ("DataLoaderWorkers", {"data_wait": 0.3}, "waiting for data"),
        ("SlowPython", {"other": 0.3}, "own code"),
        ("CheckpointTooOften", {"checkpoint": 0.3, "saves": 1.0}, "writing checkpoints"),
        ("HookTooHeavy", {"hook": 0.3, "recorded": 0.3}, "recording"),
    ],
)
def test_a_finding_about_steps_shows_its_part_of_each_step(rule: str, given: dict[str, float], words: str) -> None:
    plot = plotted(recording([step(forward=0.1, **given)] * 20), rule)
    part, whole = plot["lines"]
    assert (plot["y"], part["name"], whole["name"]) == ("milliseconds a step", words, "the whole step")
    assert [value for _, value in part["points"]] == pytest.approx([300] * 19)  # without the first step
    assert [value for _, value in whole["points"]] == pytest.approx([400] * 19)
    assert part["points"][0][0] == pytest.approx(1.4)  # a second of start-up, and the first step


def test_a_leak_shows_memory_and_the_slope_through_it() -> None:
    leaking = samples(60, job_cpu=2.0, job_main_rss_bytes=2**30 + 2**20 * 20 * np.arange(60))
    plot = plotted(recording([step(forward=1.0)] * 30, leaking), "MemoryLeak")
    memory, slope = (np.array(line["points"]) for line in plot["lines"])
    assert plot["y"] == "MiB"
    np.testing.assert_allclose(memory[:, 1], slope[:, 1], rtol=1e-3)
    assert np.diff(slope[:, 1]) == pytest.approx(20, rel=0.02)


def test_a_leak_of_workers_or_of_a_gpu_shows_theirs() -> None:
    rising = samples(60, **{"gpu/0/memory_bytes": 2**30 + 2**20 * 100 * np.arange(60)})
    made = recording([step(forward=1.0)] * 30, rising, sampler={"gpus": [{"name": "a", "memory_bytes": 24e9}]})
    plot = plots_of(made, [MemoryLeak().judge(made)])["MemoryLeak"]
    assert plot["lines"][0]["points"][0][1] == pytest.approx(1024 + 200, rel=0.02)  # the loop begins a second late


def test_long_series_are_thinned_to_their_means() -> None:
    plot = plotted(recording([step(forward=0.1, other=0.3)] * 1000), "SlowPython")
    assert len(plot["lines"][0]["points"]) == 120
    assert {round(value, 6) for _, value in plot["lines"][0]["points"]} == {300}


@pytest.mark.parametrize(
    ("rule", "columns"),
    [
        ("BusyNeighbour", {"cpu": 1.0, "job_cpu": 2.0}),
        ("SwapInUse", {"swap_in_bytes_per_second": 5e6}),
        ("Throttled", {"cpu_steal": 0.2}),
    ],
)
def test_a_finding_about_the_machine_shows_samples(rule: str, columns: dict[str, float]) -> None:
    plot = plotted(recording([step(forward=0.5, backward=0.5)] * 30, samples(60, **columns)), rule)
    assert plot["lines"]
    assert all(len(line["points"]) > 10 for line in plot["lines"])
