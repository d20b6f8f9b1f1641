"""What the report draws: time lines thinned to what a page can show, and what else happened in slow steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from finepoint.profiler.phases import PHASES, STARTUP_PHASES, Mode
from finepoint.profiler.recording import ProfilerRecording, step_seconds
from finepoint.profiler.segments import Table

_POINTS, _BINS, _OUTLIERS = 400, 240, 8
# A step counts as slow from so many times the median.
_SLOW = 2.0


def timeline_of(recording: ProfilerRecording) -> dict[str, Any]:
    """Return the series, phases, cores, steps and slow steps of a job, times in seconds from its start."""
    starts = [table["time"][0] for table in (recording.steps, recording.system) if len(table)]
    start = float(min(starts)) if starts else 0.0
    end = max(
        [
            *(recording.system["time"][-1:] - start),
            *((recording.steps["time"] + recording.steps["seconds"])[-1:] - start),
        ],
        default=0.0,
    )
    return {
        "started_at": start,
        "seconds": float(end),
        "series": _series(recording, start),
        "cores": _cores(recording.system, start, float(end)),
        "phases": _phases(recording.steps, start, float(end)),
        "steps": _steps(recording),
        "slow_steps": _slow_steps(recording, start),
        "modules": (recording.network() or {}).get("modules", [])[:15],
        "network": {key: value for key, value in (recording.network() or {}).items() if key != "modules"},
        "operators": (recording.operators or {}).get("operators", [])[:25],
        "window": {key: (recording.operators or {}).get(key) for key in ("steps", "began_at", "seconds")},
        "memory_window": (recording.operators or {}).get("memory", []),
    }


def _series(recording: ProfilerRecording, start: float) -> list[dict[str, Any]]:
    system = recording.system
    if not len(system):
        return []
    cores = max(len(system.named("core/")), 1)
    named = [("processor", system["cpu"]), ("this job", system["job_cpu"] / cores)]
    named += [(f"GPU {device}", system[f"gpu/{device}/utilisation"]) for device in range(recording.gpus)]
    memory = recording.memory_bytes or 1.0
    named.append(("memory", system["job_rss_bytes"] / memory))
    named += [(f"GPU {device} memory", system[f"gpu/{device}/memory"]) for device in range(recording.gpus)]
    groups = np.array_split(np.arange(len(system)), min(len(system), _POINTS))
    times = [round(float(system["time"][group].mean() - start), 2) for group in groups]
    return [
        {
            "name": name,
            "points": [
                [at, round(float(np.clip(np.nan_to_num(values[group]).mean(), 0, 1)), 4)]
                for at, group in zip(times, groups, strict=True)
            ],
        }
        for name, values in named
    ]


def _cores(system: Table, start: float, end: float) -> list[list[float]]:
    """Return the busy share of each core in equal stretches of time."""
    names = system.named("core/")
    if not len(system) or not names:
        return []
    bins = min(len(system), _BINS // 2)
    where = np.minimum(((system["time"] - start) / max(end, 1e-9) * bins).astype(int), bins - 1)
    counts = np.maximum(np.bincount(where, minlength=bins), 1)
    return [
        [round(float(value), 3) for value in np.bincount(where, np.nan_to_num(system[name]), minlength=bins) / counts]
        for name in names
    ]


def _phases(steps: Table, start: float, end: float) -> list[dict[str, float]]:
    """Return, for equal stretches of time, the share of each phase; a row is spread over the stretches it lies in."""
    if not len(steps) or end <= 0:
        return []
    bins = _BINS
    width = end / bins
    filled: list[dict[str, float]] = [{} for _ in range(bins)]
    evaluating, starting = steps["mode"] == Mode.EVALUATION, steps["mode"] == Mode.STARTUP
    columns = {name: np.nan_to_num(steps[f"phase/{name}"]) for name in dict.fromkeys((*PHASES, *STARTUP_PHASES))}
    for index in range(len(steps)):
        begin, seconds = steps["time"][index] - start, steps["seconds"][index]
        if seconds <= 0:
            continue
        shares = {name: values[index] / seconds for name, values in columns.items() if values[index]}
        if evaluating[index]:
            shares = {"evaluation": 1.0}
        elif starting[index]:
            shares = {"startup": 1.0}
        for place in range(int(begin / width), min(int((begin + seconds) / width) + 1, bins)):
            inside = min(begin + seconds, (place + 1) * width) - max(begin, place * width)
            for name, share in shares.items():
                filled[place][name] = filled[place].get(name, 0.0) + max(inside, 0.0) / width * share
    return [{name: round(value, 4) for name, value in sorted(stretch.items())} for stretch in filled]


def _steps(recording: ProfilerRecording) -> dict[str, Any]:
    durations = step_seconds(recording.training)
    if not len(durations):
        return {"counts": [], "edges": [], "median": None}
    high = float(np.quantile(durations, 0.99)) * 1.2 or 1e-6
    counts, edges = np.histogram(
        np.minimum(durations, high), bins=min(30, max(5, len(durations) // 2)), range=(0, high)
    )
    return {"counts": counts.tolist(), "edges": [float(edge) for edge in edges], "median": float(np.median(durations))}


def _slow_steps(recording: ProfilerRecording, start: float) -> list[dict[str, Any]]:
    """Return the slowest rows of training and what was different in them."""
    rows = recording.training
    if len(rows) < 4:
        return []
    each = rows["seconds"] / np.maximum(np.nan_to_num(rows["steps"]), 1)
    median = float(np.median(each))
    slow = [index for index in np.argsort(-each)[:_OUTLIERS] if each[index] > _SLOW * median]
    medians = {name: float(np.median(np.nan_to_num(rows[f"phase/{name}"]))) for name in PHASES}
    found = []
    for index in slow:
        excess = {name: float(np.nan_to_num(rows[f"phase/{name}"][index])) - medians[name] for name in PHASES}
        phase = max(excess, key=lambda name: excess[name])
        found.append(
            {
                "at": round(float(rows["time"][index] - start), 2),
                "step": int(np.nansum(rows["steps"][:index])) + 1,
                "seconds": float(each[index]),
                "times": float(each[index] / median),
                "phase": phase,
                "phase_excess_seconds": excess[phase],
                "meanwhile": _meanwhile(recording, float(rows["time"][index]), float(rows["seconds"][index])),
            }
        )
    return found


def _meanwhile(recording: ProfilerRecording, begin: float, seconds: float) -> list[str]:
    """Return what the machine did in a stretch of time that it does not usually do."""
    system = recording.system
    half = recording.interval_ms / 2000
    inside = system.where((system["time"] >= begin - half) & (system["time"] <= begin + seconds + half))
    if not len(inside):
        return []
    cores = max(len(system.named("core/")), 1)
    others = (inside["cpu"] * cores - inside["job_cpu"]).mean()
    words = []
    if others > (system["cpu"] * cores - system["job_cpu"]).mean() + 0.3:
        words.append(f"other processes used {others:.1f} cores")
    for column, text in (
        ("disk_write_bytes_per_second", "wrote to disk"),
        ("disk_read_bytes_per_second", "read from disk"),
        ("swap_in_bytes_per_second", "swapped in"),
    ):
        rate, usual = np.nanmean(np.nan_to_num(inside[column])), np.nanmean(np.nan_to_num(system[column]))
        if rate > max(3 * usual, 5e6):
            words.append(f"the machine {text}, {rate / 1e6:.0f} MB/s")
    if np.nansum(inside["throttled_seconds"]) > 0.05 * seconds:
        words.append("the control group held it back")
    if np.nanmax(inside["cpu_iowait"]) > 0.3:
        words.append("cores waited for disks")
    return words
