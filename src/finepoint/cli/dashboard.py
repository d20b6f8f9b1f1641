"""The terminal's view of a job that runs: bars of utilisation, the phases of late, throughput, time left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finepoint.profiler.recording import ProfilerRecording

# What happened before this is not "now" any more.
_LATE_SECONDS = 30.0
_BAR = 30


def dashboard(recording: ProfilerRecording) -> RenderableType:
    """Return one picture of a job as it is now."""
    from rich.console import Group
    from rich.table import Table as RichTable

    from finepoint.cli.output import percent, plain

    table = RichTable.grid(padding=(0, 2))
    for name, share, text in _bars(recording):
        table.add_row(name, f"[cyan]{_bar(share)}[/]", text)
    parts: list[RenderableType] = [table]
    late = _late(recording)
    if late is not None:
        phases, speed, left = late
        rows = RichTable.grid(padding=(0, 2))
        for name, share in sorted(phases.items(), key=lambda item: -item[1]):
            if share >= 0.005:
                rows.add_row(name.replace("_", " "), f"[magenta]{_bar(share)}[/]", percent(share))
        parts += ["", f"[bold]The last {_LATE_SECONDS:.0f} s[/]", rows, "", speed + left]
    if recording.ending is not None:
        parts += ["", plain(recording.ending["sentence"])]
    return Group(*parts)


def _bars(recording: ProfilerRecording) -> list[tuple[str, float, str]]:
    system = recording.system
    if not len(system):
        return [("no sample yet", 0.0, "")]
    cores = max(len(system.named("core/")), 1)
    memory = float(system["job_rss_bytes"][-1])
    bars = [
        ("processor", float(system["cpu"][-1]), f"{100 * system['cpu'][-1]:.0f} %"),
        ("this job", float(system["job_cpu"][-1]) / cores, f"{system['job_cpu'][-1]:.1f} of {cores} cores"),
        ("memory", memory / (recording.memory_bytes or 1), f"{memory / 2**20:,.0f} MiB"),
    ]
    for device in range(recording.gpus):
        busy = float(system[f"gpu/{device}/utilisation"][-1])
        bars.append((f"GPU {device}", busy, f"{100 * busy:.0f} %"))
    return bars


def _late(recording: ProfilerRecording) -> tuple[dict[str, float], str, str] | None:
    from dataclasses import replace

    from finepoint.profiler.recording import step_seconds, total
    from finepoint.profiler.summary import estimated_steps

    steps = recording.steps
    if not len(steps) or not len(recording.loop):
        return None
    end = steps["time"][-1] + steps["seconds"][-1]
    recent = replace(recording, steps=steps.where(steps["time"] + steps["seconds"] > end - _LATE_SECONDS))
    durations = step_seconds(recent.training)
    if not len(durations):
        return recent.phases(), "no training step of late", ""
    samples = total(recent.training, "samples") / max(total(recent.training, "seconds"), 1e-9)
    about = "about " if estimated_steps(recording.loop) else ""
    speed = f"{about}{round(total(recording.loop, 'steps')):,} steps, {samples:,.1f} images a second"
    loader = recording.loader()
    if loader is None or not loader.get("batches"):
        return recent.phases(), speed, ""
    done = total(recording.loop.where(recording.loop["loader"] == loader["number"]), "batches") % loader["batches"]
    seconds = (loader["batches"] - done) * float(np.median(durations))
    return recent.phases(), speed, f", {seconds:,.0f} s to the end of this pass"


def _bar(share: float) -> str:
    """Return a bar of thirty places.

    >>> len(_bar(0.5).rstrip()), _bar(2.0) == _bar(1.0)
    (15, True)
    """
    full = round(_BAR * min(max(share, 0.0), 1.0))
    return "█" * full + " " * (_BAR - full)
