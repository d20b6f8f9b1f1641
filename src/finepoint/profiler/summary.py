"""The profiler's part of `summary.json`: what a script or a dashboard needs of a job's recording."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.errors import ConfigurationError
from finepoint.profiler.checking import judge_aws, judge_own, promised_saving
from finepoint.profiler.phases import Mode
from finepoint.profiler.recording import ProfilerRecording, open_recording, step_seconds, total
from finepoint.profiler.segments import Table
from finepoint.results import RuleResult

# A step that has not come for so long, beside the longest before, did not come any more.
_STALLED_SECONDS = 60.0
_STALLED_STEPS = 20.0
# Sums of shares miss a whole number by less.
_WHOLE = 1e-3


def summarise(job: Path, *, price_per_hour: float | None = None) -> dict[str, Any]:
    """Return the `profiler` object of `summary.json` for a job.

    Args:
        job: its folder, or its `profiler-output`; of a job that runs or was killed too.
        price_per_hour: of the machine it ran on.

    Raises:
        NotFoundError: it holds no recording.
        ConfigurationError: the price is none.
    """
    check_price(price_per_hour)
    recording = open_recording(job, price_per_hour=price_per_hour)
    return summary_of(recording, judge_aws(recording), judge_own(recording))


def summary_of(recording: ProfilerRecording, aws: list[RuleResult], own: list[RuleResult]) -> dict[str, Any]:
    """Return the `profiler` object of a recording and its judgements; keys are described in docs/profiler.md."""
    system = recording.system
    durations, seconds = step_seconds(recording.training), recording.loop_seconds or 1.0
    return {
        "interval_ms": recording.interval_ms,
        "datapoints": len(system),
        "seconds": _seconds(recording),
        "cpu_utilisation_p50": _quantile(system["cpu"], 0.5),
        "cpu_utilisation_p95": _quantile(system["cpu"], 0.95),
        "gpu_utilisation_p50": _gpu_quantile(recording, 0.5),
        "gpu_utilisation_p95": _gpu_quantile(recording, 0.95),
        "peak_memory_bytes": _peak(system["job_rss_bytes"]),
        "peak_pss_bytes": _peak(system["job_pss_bytes"]),
        "startup_seconds": {name: round(value, 3) for name, value in recording.startup().items()},
        "loop_seconds": round(recording.loop_seconds, 3),
        "phases": _rounded(recording.phases()),
        "within": _rounded(recording.within()),
        "parts": [
            {**found, "seconds": round(found["seconds"], 3), "phases": _rounded(found["phases"])}
            for found in recording.parts()
        ],
        "gpu_phases": _rounded({name: value / seconds for name, value in recording.device_seconds().items()}),
        "steps": round(total(recording.steps, "steps")),
        "steps_estimated": estimated_steps(recording.steps),
        "samples_per_second": _throughput(recording),
        "step_seconds": {
            "p50": _quantile(durations, 0.5),
            "p95": _quantile(durations, 0.95),
            "max": _quantile(durations, 1.0),
        },
        "window": recording.facts.get("window"),
        "rules": [*(_aws_line(result) for result in aws), *(_own_line(result) for result in own)],
        "findings": [result.to_json() for result in own if result.fired],
        "cost": cost(recording, own),
        "ending": ending_of(recording),
        "overhead_fraction": overhead(recording),
    }


def estimated_steps(rows: Table) -> bool:
    """Return whether steps were not all counted: some that were passed over have their share of those like them.

    >>> estimated_steps(Table({"steps": np.array([1.0, 7.5])}))
    True
    """
    steps = np.nan_to_num(rows["steps"])
    return bool((np.abs(steps - np.round(steps)) > _WHOLE).any())


def check_price(price_per_hour: float | None) -> None:
    """Refuse what is no price.

    Raises:
        ConfigurationError: it is below zero, infinite or no number.
    """
    if price_per_hour is not None and not (price_per_hour >= 0 and math.isfinite(price_per_hour)):
        raise ConfigurationError(f"price-per-hour is {price_per_hour:g}; it must be a number, and 0 or more")


def cost(recording: ProfilerRecording, own: list[RuleResult]) -> dict[str, float] | None:
    """Return what the job cost, and what the finding that promises most says was wasted; None without a price."""
    if recording.price_per_hour is None:
        return None
    seconds = _seconds(recording)
    wasted = max((promised_saving(result) for result in own if result.fired), default=0.0) * recording.loop_seconds
    price = recording.price_per_hour / 3600
    return {
        "price_per_hour": recording.price_per_hour,
        "total": round(seconds * price, 4),
        "wasted": round(wasted * price, 4),
        "wasted_share": round(wasted / seconds, 4) if seconds else 0.0,
    }


def ending_of(recording: ProfilerRecording) -> dict[str, Any] | None:
    """Return how the job ended, with a hang that only its steps show; None while it runs."""
    if recording.ending is None:
        return None
    ending = dict(recording.ending)
    rows = recording.loop
    trained = rows.where(rows["mode"] == Mode.TRAIN)
    if ending["kind"] in ("signal", "unknown", "failed") and not ending["hung_seconds"] and len(trained) > 1:
        last = trained["time"][-1] + trained["seconds"][-1]
        silent = float(ending["at"]) - last
        usual = float(step_seconds(trained).max())
        if silent > max(_STALLED_SECONDS, _STALLED_STEPS * usual):
            ending["hung_seconds"] = round(silent, 1)
            ending["sentence"] += f" No step had ended for {silent:.0f} s before: it hung."
    return ending


def overhead(recording: ProfilerRecording) -> float | None:
    """Return the share of the machine's time that recording took: the sampler's, and what was added to the process."""
    system = recording.system
    if len(system) < 2:
        return None
    seconds = system["time"][-1] - system["time"][0]
    # Where a run was gone on with, each of its samplers counts from nothing.
    spent = float(np.clip(np.diff(system["sampler_cpu_seconds"]), 0, None).sum())
    sampler = spent / (seconds * recording.cores)
    moments = recording.facts.get("moments", 0) * recording.facts.get("seconds_per_moment", 0.0)
    notes = total(recording.loop, "phase/hook") - total(recording.loop, "recorded")
    return round(float(sampler + (moments + max(notes, 0.0)) / seconds), 5)


def _rounded(phases: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in phases.items()}


def _aws_line(result: RuleResult) -> dict[str, Any]:
    return {
        "rule": result.rule,
        "status": result.status,
        "triggered": result.evidence["RuleTriggered"],
        "violations": result.evidence["Violations"],
        "datapoints": result.evidence["Datapoints"],
        "reason": result.reason,
    }


def _own_line(result: RuleResult) -> dict[str, Any]:
    fired = int(result.fired)
    line = {"rule": result.rule, "status": result.status, "triggered": fired, "violations": fired}
    return {**line, "datapoints": result.evidence.get("datapoints"), "reason": result.reason}


def _seconds(recording: ProfilerRecording) -> float:
    if recording.ending is not None and "started_at" in recording.sampler:
        watched = float(recording.ending["at"]) - float(recording.sampler["started_at"])
        # Of a run that was gone on with, the sampler saw the last part only.
        return round(max(watched, float(sum(part["seconds"] for part in recording.parts()))), 3)
    times = recording.system["time"]
    return round(float(times[-1] - times[0]), 3) if len(times) else round(total(recording.steps, "seconds"), 3)


def _throughput(recording: ProfilerRecording) -> float | None:
    training = recording.training
    seconds, samples = total(training, "seconds"), total(training, "samples")
    return round(samples / seconds, 2) if seconds and samples else None


def _quantile(values: np.ndarray, share: float) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(np.quantile(known, share)), 5) if len(known) else None


def _gpu_quantile(recording: ProfilerRecording, share: float) -> float | None:
    if not recording.gpus:
        return None
    columns = [recording.system[f"gpu/{device}/utilisation"] for device in range(recording.gpus)]
    return _quantile(np.nanmean(columns, axis=0), share)


def _peak(values: np.ndarray) -> int | None:
    known = values[~np.isnan(values)]
    return math.ceil(known.max()) if len(known) else None
