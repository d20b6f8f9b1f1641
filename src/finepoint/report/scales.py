"""Axes and marks that the charts are made of. Everything is SVG text; what comes from outside is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values in low..high to pixels in start..end.

    >>> Scale(0, 10, 0, 100)(5)
    50.0
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round values from low to high, about `count` steps apart.

    >>> ticks(0, 1)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Return a number in a few digits.

    >>> number(0.01109), number(128), number(1.5)
    ('0.0111', '128', '1.5')
    """
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def svg(width: int, height: int, parts: Sequence[Markup], label: str) -> Markup:
    """Return a picture that grows with the page, with a text for those who cannot see it."""
    inner = Markup("").join(parts)
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="xMidYMid meet">{}</svg>'
    ).format(width, height, label, inner)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a line of a CSS class."""
    template = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return template.format(kind, x1, y1, x2, y2)


def polyline(points: Sequence[tuple[float, float]], kind: str, title: str = "") -> Markup:
    """Return a line through points, with a text that shows when it is pointed at."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(kind, path, title)


def dot(x: float, y: float, radius: float, kind: str, title: str = "") -> Markup:
    """Return a circle, with a text that shows when it is pointed at."""
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        kind, x, y, radius, title
    )


def box(x: float, y: float, width: float, height: float, kind: str, *, opacity: float = 1, title: str = "") -> Markup:
    """Return a rectangle, with a text that shows when it is pointed at."""
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.3f}">'
        "<title>{}</title></rect>"
    ).format(kind, x, y, max(width, 0), max(height, 0), opacity, title)


def text(x: float, y: float, content: object, kind: str = "label", anchor: str = "start") -> Markup:
    """Return a text at a place; `anchor` is start, middle or end."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, escape(str(content))
    )


def axes(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str) -> list[Markup]:
    """Return grid lines with their values, and the name of the x axis."""
    parts = []
    for value in y_ticks:
        parts += [
            line(x.start, y(value), x.end, y(value), "grid"),
            text(x.start - 8, y(value) + 4, number(value), "tick", "end"),
        ]
    parts += [text(x(value), y.start + 18, number(value), "tick", "middle") for value in x_ticks]
    return [*parts, text((x.start + x.end) / 2, y.start + 36, x_name, "label", "middle")]
