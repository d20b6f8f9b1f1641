"""The series that each finding rests on, thinned to what a small picture can show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from finepoint.profiler.phases import Mode
from finepoint.profiler.recording import ProfilerRecording
from finepoint.profiler.segments import Table
from finepoint.results import RuleResult

_POINTS = 120
# What a step is divided into for a finding: the words, and the columns that are added up.
_STEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("DataLoaderWorkers", "Oversized", "SlowImageFormat", "DecodeBound"), ("waiting for data", ("phase/data_wait",))
    ),
    "RecomputedFeatures": ("forward", ("phase/forward",)),
    **dict.fromkeys(("ChannelsLast", "Precision"), ("forward and backward", ("phase/forward", "phase/backward"))),
    "TinyBatch": ("forward and backward", ("phase/forward", "phase/backward")),
    "SlowPython": ("own code", ("phase/other",)),
    "CheckpointTooOften": ("writing checkpoints", ("phase/checkpoint",)),
    "HookTooHeavy": ("recording", ("phase/hook",)),
}


def plots_of(recording: ProfilerRecording, results: Sequence[RuleResult]) -> dict[str, dict[str, Any]]:
    """Return a picture for each finding by its rule's name: `y` in words, and `lines[{name, points[[s, y]]}]`."""
    found = {result.rule: _plot(recording, result) for result in results if result.fired}
    return {rule: {"y": plot[0], "lines": plot[1]} for rule, plot in found.items() if any(plot[1])}


def _plot(recording: ProfilerRecording, result: RuleResult) -> tuple[str, list[dict[str, Any]]]:
    steps, samples = recording.training, recording.during_loop()
    starts = [table["time"][0] for table in (recording.steps, recording.system) if len(table)]
    start = float(min(starts, default=0.0))
    if result.rule in _STEPS:
        words, columns = _STEPS[result.rule]
        return _of_steps(steps, start, [(words, _added(steps, columns)), ("the whole step", steps["seconds"])])
    if result.rule == "FrequentSync":
        waits, device = _added(steps, steps.named("sync/")), _added(steps, steps.named("gpu/"))
        return _of_steps(steps, start, [("waiting for the GPU", waits), ("the GPU computes", device)])
    if result.rule == "EvaluationShare":
        loop = recording.loop
        evaluating = loop.where(loop["mode"] == Mode.EVALUATION)
        lines = [_line("an evaluation batch", evaluating, start, 1000 * evaluating["seconds"])]
        return "milliseconds", [*lines, _line("a training step", steps, start, 1000 * steps["seconds"])]
    if result.rule == "MemoryLeak":
        return _leak(samples, start, result)
    return _of_samples(recording, samples, start, result.rule)


def _of_steps(steps: Table, start: float, series: Sequence[tuple[str, np.ndarray]]) -> tuple[str, list[dict[str, Any]]]:
    each = np.maximum(np.nan_to_num(steps["steps"]), 1)
    return "milliseconds a step", [_line(name, steps, start, 1000 * values / each) for name, values in series]


def _of_samples(
    recording: ProfilerRecording, samples: Table, start: float, rule: str
) -> tuple[str, list[dict[str, Any]]]:
    cores = max(len(recording.system.named("core/")), 1)
    allowed = ("cores it may use", np.full(len(samples), recording.cores))
    job = ("this job", samples["job_cpu"])
    series: dict[str, tuple[str, list[tuple[str, np.ndarray]]]] = {
        "ThreadOversubscription": ("busy cores", [job, allowed]),
        "IdleInstance": ("busy cores", [job, allowed]),
        "BusyNeighbour": ("busy cores", [job, ("others", samples["cpu"] * cores - samples["job_cpu"])]),
        "Throttled": (
            "cores",
            [
                ("held back by its group", samples["throttled_seconds"] * 1000 / recording.interval_ms),
                ("taken by the host", samples["cpu_steal"] * cores),
            ],
        ),
        "SwapInUse": (
            "MB a second",
            [
                ("swapped in", samples["swap_in_bytes_per_second"] / 1e6),
                ("swapped out", samples["swap_out_bytes_per_second"] / 1e6),
            ],
        ),
    }
    words, chosen = series.get(rule, ("", []))
    return words, [_line(name, samples, start, values) for name, values in chosen if not np.isnan(values).all()]


def _leak(samples: Table, start: float, result: RuleResult) -> tuple[str, list[dict[str, Any]]]:
    """Return the memory that leaks, and the slope through its middle."""
    of = str(result.evidence["of"])
    workers = samples["job_rss_bytes"] - samples["job_main_rss_bytes"]
    memory = {"main": samples["job_main_rss_bytes"], "workers": workers}
    values = memory[of] if of in memory else samples[f"{of}/memory_bytes"]
    middle = float(np.nanmedian(values)) + result.evidence["bytes_per_second"] * (
        samples["time"] - float(np.median(samples["time"]))
    )
    lines = [_line("memory", samples, start, values / 2**20), _line("fitted slope", samples, start, middle / 2**20)]
    return "MiB", lines


def _added(rows: Table, names: Sequence[str]) -> np.ndarray:
    return np.sum([np.nan_to_num(rows[name]) for name in names], axis=0) if names else np.zeros(len(rows))


def _line(name: str, rows: Table, start: float, values: np.ndarray) -> dict[str, Any]:
    """Return a line whose points are means of neighbours, where there are more than a picture shows."""
    known = ~np.isnan(values)
    times, values = rows["time"][known] - start, values[known]
    groups = np.array_split(np.arange(len(values)), min(len(values), _POINTS)) if len(values) else []
    points = [[round(float(times[group].mean()), 3), float(f"{values[group].mean():.5g}")] for group in groups]
    return {"name": name, "points": points}
