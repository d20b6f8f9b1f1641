"""The AWS-documented rules about steps; defaults are those of smdebug-rulesconfig 1.0.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from finepoint.profiler.phases import Mode
from finepoint.profiler.recording import ProfilerRecording, step_seconds, total
from finepoint.profiler.rules.aws_system import NODE
from finepoint.profiler.rules.base import AwsRule, aws_rule
from finepoint.results import RuleResult

_MODES = {"TRAIN": Mode.TRAIN, "EVAL": Mode.EVALUATION}
# SageMaker's rule looks for outliers from so many steps on.
_OUTLIER_STEPS = 100


@aws_rule
@dataclass(frozen=True)
class Dataloader(AwsRule):
    """Fires where fewer loader processes run than a share of the cores, or many more than there are cores."""

    min_threshold: float = 70
    max_threshold: float = 200
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Compare the number of loading processes with the cores; with no workers the job itself is the one."""
        loader = recording.loader()
        if loader is None:
            return self.absent(recording.why_no_loader())
        rows = recording.training
        waits = np.nan_to_num(rows["phase/data_wait"])[np.nan_to_num(rows["batches"]) > 0]
        processes, cores = max(int(loader["workers"]), 1), max(len(recording.system.named("core/")), 1)
        few = processes < cores * self.min_threshold / 100
        many = processes > cores * self.max_threshold / 100
        details: dict[str, Any] = {
            "pin_memory": loader["pin_memory"],
            "num_workers": loader["workers"],
            "cores": cores,
            "dataloaders": processes,
        }
        if len(waits):
            counts, edges = np.histogram(waits, bins=100)
            details["dataloading_time"] = {
                **{f"p{percent}": float(np.quantile(waits, percent / 100)) for percent in (25, 50, 95)},
                "probs": counts.tolist(),
                "binedges": edges.tolist(),
            }
        return self.judged(
            violations=int(few) + int(many),
            triggered=int(few or many),
            datapoints=int(total(recording.loop, "batches")),
            details=details,
            meaning=f"{processes} process{'es load' if processes > 1 else ' loads'} data on {cores} cores.",
            remedy=f"set num_workers of the DataLoader to {cores}",
        )


@aws_rule
@dataclass(frozen=True)
class MaxInitializationTime(AwsRule):
    """Fires where the first step begins later than `threshold` minutes after the start."""

    threshold: float = 20
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Measure the time from the start to the first step, or, without one, to the last sample."""
        loop, system = recording.loop, recording.system
        times = system["time"]
        if not len(times) and not len(loop):
            return self.too_few(0, 0)
        began = recording.steps["time"][0] if len(recording.steps) else times[0]
        ended = max([*times[-1:], *(loop["time"] + loop["seconds"])[-1:]])
        first = loop["time"][0] if len(loop) else None
        waited = (first if first is not None else ended) - began
        numbers = {} if first is None else {"first": float(first), "last": float(loop["time"][-1])}
        return self.judged(
            violations=int(waited > 60 * self.threshold),
            datapoints=len(loop),
            details={"job_start": float(began), "job_end": float(ended), "step_num": numbers},
            meaning=f"It took {waited / 60:.0f} minutes to the first step.",
            remedy="look at the start-up times: loading of weights and listing of files can be done once and kept",
        )


@aws_rule
@dataclass(frozen=True)
class StepOutlier(AwsRule):
    """Fires where more than `n_outliers` steps last longer than the mean and `stddev` standard deviations."""

    stddev: float = 3
    mode: str | None = None
    n_outliers: int = 10
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Count outliers of each mode; training steps where it is not given."""
        modes = [self.mode] if self.mode else ["TRAIN", "EVAL"]
        details: dict[str, Any] = {}
        violations = triggered = points = 0
        for mode in modes:
            durations = _durations(recording, _MODES[mode])
            points += len(durations)
            if len(durations) <= _OUTLIER_STEPS:
                continue
            limit = durations.mean() + self.stddev * durations.std()
            outliers = np.flatnonzero(durations > limit)
            counts, edges = np.histogram(durations[durations < limit], bins=100)
            # Theirs has one entry a machine; a second mode is one beside it, so that neither hides the other.
            details[NODE if not details else f"{NODE} {mode}"] = {
                "step_stats": {
                    "mean": float(durations.mean()),
                    "max": float(durations.max()),
                    **{f"p{percent}": float(np.quantile(durations, percent / 100)) for percent in (99, 95, 50)},
                    "min": float(durations.min()),
                },
                "number_of_outliers": len(outliers),
                "phase": f"Step:ModeKeys.{mode}",
                "stddev": round(float(durations.std()), 2),
                "probs": counts.tolist(),
                "binedges": edges.tolist(),
                "step_numbers": outliers.tolist(),
            }
            if len(outliers) > self.n_outliers:
                violations += len(outliers)
                triggered += 1
        if not details:
            return self.too_few(points, _OUTLIER_STEPS)
        return self.judged(
            violations=violations,
            triggered=triggered,
            datapoints=points,
            details={"step_details": details},
            meaning=f"{violations} steps lasted much longer than the others.",
            remedy="see in the report what else happened then",
        )


@aws_rule
@dataclass(frozen=True)
class OverallFrameworkMetrics(AwsRule):
    """Never fires; its details are shares of the phases, in percent."""

    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Summarise the rows."""
        phases = recording.phases()
        if not phases:
            return self.absent("no step was seen")
        loop = recording.loop
        seconds = {
            name: total(loop.where(loop["mode"] == mode), "seconds")
            for name, mode in (("train", Mode.TRAIN), ("eval", Mode.EVALUATION), ("others", Mode.BETWEEN))
        }
        whole = sum(seconds.values()) or 1.0
        passes = {"Forward pass": phases["forward"], "Backward pass": phases["backward"]}
        both = sum(passes.values()) or 1.0
        details = {
            "phase": {name: 100 * value / whole for name, value in seconds.items()},
            "phase_time": seconds,
            "forward_backward": {name: 100 * value / both for name, value in passes.items()},
            "general": {name: 100 * value for name, value in phases.items()},
        }
        return self.judged(violations=0, datapoints=len(loop), details=details)


def _durations(recording: ProfilerRecording, mode: Mode) -> np.ndarray:
    if mode is Mode.TRAIN:
        return step_seconds(recording.training)
    rows = recording.loop
    rows = rows.where(rows["mode"] == mode)
    count = np.maximum(np.nan_to_num(rows["batches"]), 1).astype(int)
    return np.repeat(rows["seconds"] / count, count)
