"""The summary of a recording, and what is left in a job's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.profiler.making import NETWORK, START, job, recording, samples, step, steps, table

from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.files import read_json
from finepoint.profiler.finishing import finish
from finepoint.profiler.phases import Mode
from finepoint.profiler.recording import open_recording, step_seconds
from finepoint.profiler.summary import summarise

ROWS = [step(data_wait=0.3, forward=0.1, backward=0.1, saves=0.0)] * 20 + [
    step(Mode.EVALUATION, data_wait=0.1, forward=0.1)
] * 5
ENDING = {
    "kind": "completed",
    "sentence": "It ended by itself, exit code 0.",
    "exit_code": 0,
    "signal": None,
    "hung_seconds": 0.0,
    "memory_kills": 0,
    "at": START + 30,
}


def test_phases_add_up_and_evaluation_takes_its_own_waiting(tmp_path: Path) -> None:
    summary = summarise(job(tmp_path, recording(ROWS, ending=ENDING)))
    assert sum(summary["phases"].values()) == pytest.approx(1, abs=0.02)
    assert summary["phases"]["evaluation"] == pytest.approx(1 / 11, abs=1e-3)
    assert summary["phases"]["data_wait"] == pytest.approx(6 / 11, abs=1e-3)
    assert summary["step_seconds"]["p50"] == pytest.approx(0.5)
    assert (summary["interval_ms"], summary["datapoints"], summary["steps"]) == (500, 60, 20)
    assert summary["peak_memory_bytes"] == 10**9
    assert summary["gpu_utilisation_p50"] is None
    assert summary["seconds"] == 30


def test_waiting_is_told_apart_from_decoding_and_the_forward_pass_from_frozen_layers(tmp_path: Path) -> None:
    loading = table([{"time": START, "seconds": 6.0, "decode_seconds": 3.0}])
    facts = {"networks": [NETWORK | {"frozen_share": 0.5}]}
    judged = finish(job(tmp_path, recording(ROWS, ending=ENDING, loading=loading, facts=facts)))
    assert judged.summary["within"] == pytest.approx({"decode": 3 / 11, "frozen_forward": 1 / 11}, abs=1e-3)
    words = read_json(tmp_path / "profiler-output" / "report.json")["words"]["sentences"][0]
    assert "55 % waiting for data (decoding images: 27 %)" in words
    assert "18 % the forward pass (frozen layers: 9 %)" in words


def test_what_is_read_from_disk_is_what_was_recorded(tmp_path: Path) -> None:
    made = recording(ROWS)
    read = open_recording(job(tmp_path, made))
    assert read.phases() == made.phases()
    assert read.facts == made.facts
    assert open_recording(tmp_path / "profiler-output").phases() == made.phases()


def test_micro_batches_belong_to_the_step_that_they_lead_to() -> None:
    micro = step(forward=0.1) | {"steps": 0.0}
    rows = steps([micro, micro, step(forward=0.2), micro, step(forward=0.3)])
    assert step_seconds(rows.where(rows["mode"] == Mode.TRAIN)) == pytest.approx([0.4, 0.4])


def test_the_cost_is_rate_times_time_and_the_waste_what_the_first_finding_promises(tmp_path: Path) -> None:
    judged = finish(job(tmp_path, recording(ROWS, ending=ENDING)), price_per_hour=3.6)
    promise = 1 - 1 / judged.findings[0].evidence["predicted_speedup"]
    assert judged.summary["cost"] == {
        "price_per_hour": 3.6,
        "total": 0.03,
        "wasted": pytest.approx(promise * 11 / 1000, abs=1e-4),
        "wasted_share": pytest.approx(promise * 11 / 30, abs=1e-3),
    }


@pytest.mark.parametrize("price", [float("nan"), float("inf"), -1.0])
def test_a_price_that_is_none_is_refused(tmp_path: Path, price: float) -> None:
    folder = job(tmp_path, recording(ROWS))
    with pytest.raises(ConfigurationError, match="price-per-hour is"):
        finish(folder, price_per_hour=price)
    with pytest.raises(ConfigurationError, match="price-per-hour is"):
        summarise(folder, price_per_hour=price)
    assert summarise(folder, price_per_hour=0.0)["cost"]["total"] == 0


def test_steps_are_the_nearest_number_and_say_whether_all_were_counted(tmp_path: Path) -> None:
    summary = summarise(job(tmp_path / "a", recording([*ROWS, ROWS[0] | {"steps": 3.9}])))
    assert (summary["steps"], summary["steps_estimated"]) == (24, True)
    summary = summarise(job(tmp_path / "b", recording([*ROWS, ROWS[0] | {"steps": 4 - 1e-9}])))
    assert (summary["steps"], summary["steps_estimated"]) == (24, False)


def test_a_busy_loop_without_steps_before_a_kill_is_a_hang(tmp_path: Path) -> None:
    killed = ENDING | {
        "kind": "signal",
        "signal": "SIGTERM",
        "sentence": "It was killed by SIGTERM.",
        "at": START + 212,
    }
    summary = summarise(job(tmp_path, recording(ROWS, ending=killed)))
    assert summary["ending"]["hung_seconds"] == pytest.approx(201)  # the last training step ended at START + 11
    assert "No step had ended for 201 s" in summary["ending"]["sentence"]


def test_finishing_leaves_the_reports_of_all_rules_and_a_summary(tmp_path: Path) -> None:
    judged = finish(job(tmp_path, recording(ROWS)))
    reports = tmp_path / "rule-output" / "ProfilerReport" / "profiler-output" / "profiler-reports"
    assert len(list(reports.glob("*.json"))) == 11
    assert read_json(tmp_path / "profiler-output" / "summary.json") == judged.summary


def test_overhead_is_the_samplers_time_and_the_moments(tmp_path: Path) -> None:
    system = samples(61, sampler_cpu_seconds=np.linspace(0, 1.2, 61))
    facts: dict[str, Any] = {"moments": 300_000, "seconds_per_moment": 1e-6}
    summary = summarise(job(tmp_path, recording(ROWS, system, facts=facts)))
    assert summary["overhead_fraction"] == pytest.approx(1.2 / 30 / 4 + 0.3 / 30, abs=1e-4)


def test_a_folder_without_a_recording_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="finepoint profile run"):
        open_recording(tmp_path)
