"""The AWS-documented rules: defaults, the form of their reports, and cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.profiler.making import loader, recording, samples, step

from finepoint.profiler.checking import judge_aws, write_judgements
from finepoint.profiler.phases import Mode
from finepoint.profiler.rules.aws_framework import (
    Dataloader,
    MaxInitializationTime,
    OverallFrameworkMetrics,
    StepOutlier,
)
from finepoint.profiler.rules.aws_system import (
    BatchSize,
    CPUBottleneck,
    GPUMemoryIncrease,
    IOBottleneck,
    LoadBalancing,
    LowGPUUtilization,
    OverallSystemUsage,
)

NAMES = [
    "BatchSize",
    "CPUBottleneck",
    "Dataloader",
    "GPUMemoryIncrease",
    "IOBottleneck",
    "LoadBalancing",
    "LowGPUUtilization",
    "MaxInitializationTime",
    "OverallFrameworkMetrics",
    "OverallSystemUsage",
    "StepOutlier",
]
SILENT = {"gpu0_memory": np.nan, "gpu1_memory": np.nan}
GPUS = {"gpus": [{"name": "a"}, {"name": "b"}]}


def gpu(count: int, **columns: Any) -> Any:
    """Return a recording of two GPUs; columns of the first are `utilisation` and `memory`."""
    given = {f"gpu/{device}/{name}": 0.5 for device in range(2) for name in ("utilisation", "memory")}
    given |= {name.replace("gpu0_", "gpu/0/").replace("gpu1_", "gpu/1/"): value for name, value in columns.items()}
    return recording(system=samples(count, **given), sampler=GPUS)


def test_every_rule_writes_a_report_with_the_keys_and_types_of_theirs(tmp_path: Path) -> None:
    results = judge_aws(recording([step(forward=0.1)] * 20))
    folder = write_judgements(tmp_path, results)
    assert sorted(path.stem for path in folder.iterdir()) == NAMES
    assert folder == tmp_path / "rule-output" / "ProfilerReport" / "profiler-output" / "profiler-reports"
    for path in folder.iterdir():
        report = json.loads(path.read_text())
        assert {key: type(value) for key, value in report.items()} == {
            "RuleTriggered": int,
            "Violations": int,
            "Details": dict,
            "Datapoints": int,
            "RuleParameters": str,
        }


def test_parameters_are_lines_of_name_and_value_at_the_documented_defaults() -> None:
    assert CPUBottleneck().parameters() == "threshold:50\ncpu_threshold:90\ngpu_threshold:10\npatience:1000"
    assert IOBottleneck().parameters() == "threshold:50\nio_threshold:50\ngpu_threshold:10\npatience:1000"
    assert LowGPUUtilization().parameters() == "threshold_p95:70\nthreshold_p5:10\nwindow:500\npatience:1000"
    assert BatchSize().parameters().endswith("patience:1000\nwindow:500")
    assert OverallSystemUsage().parameters() == ""


@pytest.mark.parametrize(
    "kind", [BatchSize, CPUBottleneck, IOBottleneck, LowGPUUtilization, GPUMemoryIncrease, LoadBalancing]
)
def test_a_short_job_is_no_pass(kind: Any) -> None:
    result = kind().judge(gpu(1000))
    assert result.status == "NotApplicable"
    assert result.reason == "too few data points: 1,000 of more than 1,000"
    assert result.evidence["RuleTriggered"] == 0


@pytest.mark.parametrize(
    "kind", [BatchSize, CPUBottleneck, IOBottleneck, LowGPUUtilization, GPUMemoryIncrease, LoadBalancing]
)
def test_without_a_gpu_the_gpus_rules_do_not_pass(kind: Any) -> None:
    assert kind().judge(recording(system=samples(2000))).status == "NotApplicable"


@pytest.mark.parametrize(
    "kind", [BatchSize, CPUBottleneck, IOBottleneck, LowGPUUtilization, GPUMemoryIncrease, LoadBalancing]
)
def test_what_a_gpu_does_not_say_is_not_taken_for_nothing(kind: Any) -> None:
    result = kind().judge(gpu(1200, **dict.fromkeys(("gpu0_utilisation", "gpu1_utilisation"), np.nan), **SILENT))
    assert result.status == "NotApplicable"
    assert "no GPU says its" in result.reason
    usage = OverallSystemUsage().judge(gpu(60, gpu0_utilisation=np.nan, gpu1_utilisation=np.nan)).evidence
    assert "GPU" not in usage["Details"]


def test_samples_in_which_a_gpu_said_nothing_are_left_out() -> None:
    gaps = np.where(np.arange(1200) % 3 == 0, np.nan, 0.9)
    assert not LowGPUUtilization().judge(gpu(1200, gpu0_utilisation=gaps, gpu1_utilisation=0.9)).fired
    assert CPUBottleneck().judge(gpu(1200, gpu0_utilisation=gaps, **{"core/2": 0.95})).evidence["Violations"] == 0


def test_cpu_bottleneck_counts_samples_with_a_busy_core_and_an_idle_gpu() -> None:
    idle = np.where(np.arange(1200) < 700, 0.05, 0.5)
    result = CPUBottleneck().judge(gpu(1200, gpu0_utilisation=idle, **{"core/2": 0.95}))
    assert result.fired
    assert (result.evidence["RuleTriggered"], result.evidence["Violations"]) == (1, 700)
    assert result.evidence["Details"]["low_gpu_utilization"] == 700
    assert result.evidence["Details"]["bottlenecks"]["1000.0"] == {"GPUs": 1, "CPUs": 1}
    below = CPUBottleneck().judge(
        gpu(1200, gpu0_utilisation=np.where(np.arange(1200) < 500, 0.05, 0.5), **{"core/2": 0.95})
    )
    assert (below.status, below.evidence["Violations"]) == ("NoIssuesFound", 500)


def test_io_bottleneck_needs_waiting_for_disks() -> None:
    assert IOBottleneck().judge(gpu(1200, gpu0_utilisation=0.0, cpu_iowait=0.6)).fired
    assert not IOBottleneck().judge(gpu(1200, gpu0_utilisation=0.0, cpu_iowait=0.4)).fired


def test_batch_size_fires_only_where_all_three_are_low() -> None:
    assert BatchSize().judge(gpu(1200)).evidence["Violations"] == 2
    assert not BatchSize().judge(gpu(1200, cpu=0.9)).fired
    one = BatchSize().judge(gpu(1200, gpu0_memory=0.9))
    assert list(one.evidence["Details"]["algo-1"]) == ["cpu", "gpu1", "gpu1_memory"]


def test_low_gpu_utilization_sees_idleness_and_bursts() -> None:
    bursts = np.tile([0.0, 0.95], 600)
    details = LowGPUUtilization().judge(gpu(1200, gpu0_utilisation=bursts, gpu1_utilisation=0.9)).evidence["Details"]
    assert details == {"algo-1": {"gpu0": {"gpu_95": 95.0, "gpu_5": 0.0}}}


def test_gpu_memory_increase_compares_moving_averages() -> None:
    rising = np.where(np.arange(1200) < 1100, 0.1, 0.8)  # 70 points over ten samples: 7 a sample
    result = GPUMemoryIncrease().judge(gpu(1200, gpu0_memory=rising))
    assert result.evidence["Violations"] == 10
    assert result.evidence["Details"]["algo-1"]["gpu0"]["increase"] == pytest.approx(7)
    assert not GPUMemoryIncrease().judge(gpu(1200, gpu0_memory=np.linspace(0.1, 0.8, 1200))).fired


def test_load_balancing_measures_the_distance_of_histograms() -> None:
    assert LoadBalancing().judge(gpu(1200, gpu0_utilisation=0.9, gpu1_utilisation=0.1)).fired
    assert not LoadBalancing().judge(gpu(1200)).fired


def test_dataloader_compares_loading_processes_with_cores() -> None:
    def judged(workers: int) -> Any:
        return Dataloader().judge(
            recording([step(data_wait=0.1, forward=0.1)] * 20, facts={"loaders": [loader(workers=workers)]})
        )

    assert [judged(workers).fired for workers in (0, 2, 3, 8, 9)] == [True, True, False, False, True]
    assert judged(0).evidence["Details"]["num_workers"] == 0
    assert judged(3).evidence["Datapoints"] == 20


def test_max_initialization_time_is_in_minutes() -> None:
    rows = recording([step(forward=0.1)] * 3)
    assert not MaxInitializationTime().judge(rows).fired
    assert MaxInitializationTime(threshold=1 / 120).judge(rows).fired
    assert MaxInitializationTime(threshold=0.4).judge(recording(system=samples(60))).fired  # no step in 29.5 s


def test_step_outlier_needs_a_hundred_steps_and_more_than_ten_outliers() -> None:
    def judged(outliers: int, steps: int = 400) -> Any:
        rows = [step(forward=10.0 if number % 30 == 1 and number // 30 < outliers else 0.1) for number in range(steps)]
        return StepOutlier().judge(recording(rows))

    assert judged(0, steps=90).reason == "too few data points: 89 of more than 100"
    assert not judged(10).fired
    fired = judged(11)
    assert fired.evidence["Violations"] == 11
    assert fired.evidence["Details"]["step_details"]["algo-1"]["number_of_outliers"] == 11


def test_step_outlier_keeps_the_details_of_both_modes() -> None:
    slow = [step(Mode.EVALUATION, forward=5.0 if number % 10 == 0 else 0.1) for number in range(200)]
    details = StepOutlier().judge(recording([step(forward=0.1)] * 200 + slow)).evidence["Details"]["step_details"]
    assert {name: found["phase"] for name, found in details.items()} == {
        "algo-1": "Step:ModeKeys.TRAIN",
        "algo-1 EVAL": "Step:ModeKeys.EVAL",
    }
    assert details["algo-1 EVAL"]["number_of_outliers"] == 20


def test_overall_metrics_never_fire_and_hold_percentages() -> None:
    rows = [step(data_wait=0.1, forward=0.2, backward=0.1)] * 10 + [step(Mode.EVALUATION, forward=0.1)] * 10
    details = OverallFrameworkMetrics().judge(recording(rows)).evidence["Details"]
    assert details["forward_backward"] == {
        "Forward pass": pytest.approx(200 / 3),
        "Backward pass": pytest.approx(100 / 3),
    }
    assert details["phase"]["eval"] == pytest.approx(20)
    usage = OverallSystemUsage().judge(recording()).evidence
    assert usage["Details"]["CPU"]["algo-1"]["p50"] == 10.0
    assert usage["Datapoints"] == 60
