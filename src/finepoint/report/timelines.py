"""The charts of a profile: time lines with phases under them, breakdowns, cores, durations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from finepoint.report.scales import Scale, axes, box, line, number, polyline, svg, text, ticks

# In the order in which they are stacked, with the words for them.
PHASE_NAMES = {
    "startup": "start-up",
    "data_wait": "waiting for data",
    "copy": "copy to GPU",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "evaluation": "evaluation",
    "checkpoint": "checkpoint",
    "hook": "recording",
    "other": "own code",
}
# What a run is made of.
PART_NAMES = {
    "startup": "starting processes",
    "check": "checking the images",
    "features": "features",
    "tuning": "tuning",
    "training": "training",
    "evaluation": "evaluation",
    "packing": "packing the model",
}
# Pixels across; the page stretches them, so that lines are drawn with a width of their own (see profile.css).
_ACROSS = 1000


def series_picture(series: Sequence[Mapping[str, Any]], seconds: float) -> Markup:
    """Return lines of utilisation over the job's time, without text, to be stretched by the page."""
    x, y = Scale(0, max(seconds, 1e-9), 0, _ACROSS), Scale(0, 1, 100, 2)
    parts = [line(0, y(value), _ACROSS, y(value), "grid") for value in (0, 0.5, 1)]
    for place, one in enumerate(series):
        points = [(x(at), y(value)) for at, value in one["points"]]
        parts.append(polyline(points, f"series s{min(place, 5)}", one["name"]))
    return _stretched(100, parts, "Utilisation of processor, this job, GPU and memory over time")


def phases_picture(stretches: Sequence[Mapping[str, float]], seconds: float) -> Markup:
    """Return stacked shares of the phases over the job's time, to be stretched by the page."""
    width = _ACROSS / max(len(stretches), 1)
    parts = []
    for place, stretch in enumerate(stretches):
        below = 60.0
        begin = place / max(len(stretches), 1) * seconds
        for name, words in PHASE_NAMES.items():
            share = stretch.get(name, 0.0)
            if share > 0.001:
                height = 60 * share
                below -= height
                title = f"{begin:.1f} s: {words} {100 * share:.0f} %"
                parts.append(box(place * width, below, width + 0.3, height, f"ph-{name}", title=title))
    return _stretched(60, parts, "Phases over time")


def cores_picture(cores: Sequence[Sequence[float]]) -> Markup:
    """Return a heat map, a row for each core, to be stretched by the page."""
    height = 14 if len(cores) <= 16 else 5
    parts = []
    for row, values in enumerate(cores):
        width = _ACROSS / max(len(values), 1)
        parts += [
            box(
                place * width,
                row * height,
                width + 0.3,
                height - 1,
                "heat",
                opacity=max(value, 0.04),
                title=f"core {row}: {100 * value:.0f} %",
            )
            for place, value in enumerate(values)
        ]
    return _stretched(height * max(len(cores), 1), parts, f"How busy each of {len(cores)} cores was over time")


def time_marks(seconds: float) -> list[dict[str, Any]]:
    """Return where along the time lines to write which time.

    >>> time_marks(10)[1]
    {'percent': 25.0, 'text': '2.5 s'}
    """
    if seconds <= 0:
        return []
    return [{"percent": 100 * value / seconds, "text": f"{number(value)} s"} for value in ticks(0, seconds)]


def durations_chart(steps: Mapping[str, Any]) -> Markup:
    """Return the distribution of the durations of training steps, the median marked."""
    counts, edges = steps["counts"], [1000 * edge for edge in steps["edges"]]
    marks = ticks(0, max(max(counts), 1))
    x = Scale(0, edges[-1], 48, 688)
    y = Scale(0, max(marks[-1], *counts), 180, 36)
    parts = axes(x, y, ticks(0, edges[-1], 6), marks, "milliseconds a step")
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        title = f"{count} steps of {number(low)} to {number(high)} ms"
        parts.append(box(x(low) + 0.5, y(count), x(high) - x(low) - 1, y(0) - y(count), "accent", title=title))
    median = 1000 * steps["median"]
    parts += [line(x(median), y(0), x(median), 16, "best-line"), text(x(median) + 6, 22, f"median {number(median)} ms")]
    return svg(700, 224, parts, f"Durations of training steps; the median is {number(median)} ms")


def evidence_chart(plot: Mapping[str, Any]) -> Markup | None:
    """Return the lines that a finding rests on, over the job's time; None where no line has two points."""
    lines = [one for one in plot["lines"] if len(one["points"]) > 1]
    if not lines:
        return None
    times = [at for one in lines for at, _ in one["points"]]
    values = [value for one in lines for _, value in one["points"]]
    marks = ticks(0, max(*values, 1e-9), 3)
    across = ticks(min(times), max(times), 6)
    x, y = Scale(min(times), max(times), 64, 688), Scale(0, max(marks[-1], *values), 124, 26)
    parts = [*axes(x, y, across, marks, "seconds of the job"), text(0, 12, plot["y"])]
    for place, one in enumerate(lines):
        kind = f"series s{1 + place}"
        parts.append(polyline([(x(at), y(max(value, 0))) for at, value in one["points"]], kind, one["name"]))
        right = 688 - 220 * (len(lines) - 1 - place)
        parts.append(polyline([(right - 200, 8), (right - 180, 8)], kind))
        parts.append(text(right - 172, 12, one["name"]))
    return svg(700, 168, parts, f"{plot['y']}: {' and '.join(str(one['name']) for one in lines)}")


def memory_chart(points: Sequence[Sequence[float]]) -> Markup:
    """Return what torch's allocator held over the window of torch.profiler."""
    held = [value / 2**20 for _, value in points]
    marks = ticks(0, max(*held, 1.0))
    x, y = Scale(0, max(points[-1][0], 1e-9), 56, 688), Scale(0, max(marks[-1], *held), 160, 16)
    parts = axes(x, y, ticks(0, max(points[-1][0], 1e-9), 6), marks, "seconds in the window")
    parts.append(polyline([(x(at), y(value)) for (at, _), value in zip(points, held, strict=True)], "series series-a"))
    return svg(700, 204, parts, "MiB that tensors held during the window")


def _stretched(height: float, parts: Sequence[Markup], label: str) -> Markup:
    return Markup(
        '<svg class="stretched" viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="none">{}</svg>'
    ).format(_ACROSS, height, label, Markup("").join(parts))
