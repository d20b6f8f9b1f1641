"""Counting what an endpoint does, and saying it as OpenMetrics (https://prometheus.io/docs/specs/om)."""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# Seconds: from a crop's decoding to a client's patience, each about 1.5 to 2.5 times the one before.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
_RECENT = 1000
_RATE_SECONDS = 60

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number for each set of labels, that only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.values: dict[Labels, float] = {}

    def add(self, amount: float = 1, **labels: str) -> None:
        """Count."""
        key = tuple(sorted(labels.items()))
        self.values[key] = self.values.get(key, 0) + amount

    def lines(self) -> list[str]:
        """Return its samples."""
        values = self.values or {(): 0}
        return [f"{self.name}_total{_labels(key)} {_number(value)}" for key, value in sorted(values.items())]


class Gauge:
    """A number that is asked for when it is wanted."""

    kind = "gauge"

    def __init__(self, name: str, text: str, read: Callable[[], float | Mapping[str, float]], label: str = "") -> None:
        self.name, self.text, self._read, self._label = name, text, read, label

    def lines(self) -> list[str]:
        """Return its samples."""
        value = self._read()
        if isinstance(value, Mapping):
            return [
                f"{self.name}{_labels(((self._label, key),))} {_number(part)}" for key, part in sorted(value.items())
            ]
        return [f"{self.name} {_number(value)}"]


class Histogram:
    """How often a value fell below each of some bounds, for each value of one label."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float], label: str = "") -> None:
        self.name, self.text, self._label = name, text, label
        self._bounds = tuple(float(bound) for bound in bounds)  # as OpenMetrics wants them written
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._recent: dict[str, deque[float]] = {}

    def observe(self, value: float, label: str = "") -> None:
        """Count a value."""
        if label not in self._counts:
            self._counts[label] = [0] * (len(self._bounds) + 1)
            self._sums[label] = 0.0
            self._recent[label] = deque(maxlen=_RECENT)
        self._counts[label][bisect.bisect_left(self._bounds, value)] += 1
        self._sums[label] += value
        self._recent[label].append(value)

    def quantile(self, share: float, label: str = "") -> float:
        """Return a quantile of the last 1,000 values, or 0 before the first."""
        values = sorted(self._recent.get(label, ()))
        return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0

    def lines(self) -> list[str]:
        """Return its samples."""
        found = []
        for label, counts in sorted(self._counts.items()):
            own = ((self._label, label),) if self._label else ()
            total = 0
            for bound, count in zip((*self._bounds, "+Inf"), counts, strict=True):
                total += count
                found.append(f"{self.name}_bucket{_labels((*own, ('le', str(bound))))} {total}")
            found += [
                f"{self.name}_count{_labels(own)} {total}",
                f"{self.name}_sum{_labels(own)} {_number(self._sums[label])}",
            ]
        return found


class Rate:
    """Events a second over the last minute."""

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque(maxlen=_RATE_SECONDS)  # each a second and its events

    def add(self) -> None:
        """Count an event now."""
        now = int(time.monotonic())
        if self._seconds and self._seconds[-1][0] == now:
            self._seconds[-1][1] += 1
        else:
            self._seconds.append([now, 1])

    def value(self) -> float:
        """Return the rate."""
        first = time.monotonic() - _RATE_SECONDS
        return sum(events for second, events in self._seconds if second >= first) / _RATE_SECONDS


Metric = Counter | Gauge | Histogram


def exposition(metrics: Sequence[Metric]) -> bytes:
    r"""Return metrics as OpenMetrics text.

    >>> seen = Counter("requests", "Requests answered.")
    >>> seen.add(status="200")
    >>> exposition([seen]).decode().splitlines()[2]
    'requests_total{status="200"} 1'
    """
    lines: list[str] = []
    for metric in metrics:
        lines += [f"# TYPE {metric.name} {metric.kind}", f"# HELP {metric.name} {metric.text}", *metric.lines()]
    return ("\n".join([*lines, "# EOF"]) + "\n").encode()


def _number(value: float) -> str:
    """Return a number with all its digits: a counter that shows six stands still from a million on."""
    text = str(value) if isinstance(value, int) else repr(float(value))
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text)


def _labels(pairs: Labels) -> str:
    escaped = ((name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, value in pairs)
    inside = ",".join(f'{name}="{value}"' for name, value in escaped)
    return f"{{{inside}}}" if inside else ""
