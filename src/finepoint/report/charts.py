"""The charts of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from finepoint.report.scales import Scale, axes, box, dot, line, number, polyline, svg, text, ticks

Trial = Mapping[str, Any]


def curves_chart(epochs: Sequence[Mapping[str, Any]], measure: str, best_epoch: int) -> Markup:
    """Return training and validation `loss` or `accuracy` over the epochs, the best epoch marked."""
    train = [row[f"train_{measure}"] for row in epochs]
    valid = [row[f"valid_{measure}"] for row in epochs]
    low = 0.0 if measure == "loss" else min(*train, *valid)
    marks = ticks(low, max(*train, *valid))
    x = Scale(1, max(len(epochs), 2), 48, 330)
    y = Scale(min(low, marks[0]), max(marks[-1], *train, *valid), 200, 24)
    steps = sorted({round(value) for value in ticks(1, max(len(epochs), 2), 5)})
    parts = axes(x, y, steps, marks, "epoch")
    parts.append(line(x(best_epoch), y.start, x(best_epoch), y.end, "best-line"))
    for name, values, kind in (("training", train, "series-b"), ("validation", valid, "series-a")):
        points = [(x(place), y(value)) for place, value in enumerate(values, 1)]
        parts.append(polyline(points, f"series {kind}"))
        parts += [
            dot(*point, 3.5, kind, f"epoch {place}: {name} {measure} {value:.4f}")
            for place, (point, value) in enumerate(zip(points, values, strict=True), 1)
        ]
    return svg(350, 244, parts, f"Training and validation {measure} by epoch; best epoch {best_epoch}")


def history_chart(tuning: Mapping[str, Any]) -> Markup:
    """Return each trial's objective in order, and the best so far."""
    done = [trial for trial in tuning["trials"] if trial["value"] is not None]
    values = [trial["value"] for trial in done]
    marks = ticks(min(values), max(values))
    x = Scale(0, max(len(tuning["trials"]) - 1, 1), 56, 688)
    y = Scale(min(marks[0], *values), max(marks[-1], *values), 200, 20)
    parts = axes(
        x, y, sorted({round(value) for value in ticks(0, max(len(tuning["trials"]) - 1, 1), 6)}), marks, "trial"
    )
    best: float | None = None
    steps = []
    for trial in done:
        better = best is None or (trial["value"] < best if tuning["direction"] == "minimize" else trial["value"] > best)
        if better:
            if best is not None:
                steps.append((x(trial["number"]), y(best)))
            best = trial["value"]
        steps.append((x(trial["number"]), y(best or 0.0)))
    parts.append(polyline(steps, "series series-a", "best so far"))
    winner = (tuning.get("best") or {}).get("number")
    for trial in done:
        kind = "accent" if trial["number"] == winner else "series-b"
        parts.append(
            dot(
                x(trial["number"]),
                y(trial["value"]),
                6 if trial["number"] == winner else 4,
                kind,
                _describe(trial, tuning),
            )
        )
    return svg(700, 244, parts, f"{tuning['objective']} of each trial, and the best so far")


def parallel_chart(tuning: Mapping[str, Any]) -> Markup:
    """Return parallel coordinates: a line for each trial through its hyperparameters to its objective."""
    done = [trial for trial in tuning["trials"] if trial["value"] is not None]
    names = list(done[0]["hyperparameters"])
    columns = {name: [trial["hyperparameters"][name] for trial in done] for name in names}
    columns[tuning["objective"]] = [trial["value"] for trial in done]
    places = Scale(0, max(len(columns) - 1, 1), 60, 620)
    scales = {name: _Column(values) for name, values in columns.items()}
    order = sorted(done, key=lambda trial: trial["value"], reverse=tuning["direction"] == "minimize")
    parts = []
    for rank, trial in enumerate(order):
        values = [*(trial["hyperparameters"][name] for name in names), trial["value"]]
        points = [(places(index), scales[name](values[index])) for index, name in enumerate(columns)]
        share = (rank + 1) / len(order)
        kind = "coordinate best" if rank == len(order) - 1 else f"coordinate level-{min(int(share * 4), 3)}"
        parts.append(polyline(points, kind, _describe(trial, tuning)))
    for index, name in enumerate(columns):
        at = places(index)
        parts += [line(at, 34, at, 210, "axis"), text(at, 20, name, "label strong", "middle")]
        parts += [text(at + 7, scales[name](value) + 4, _cell(value), "tick halo") for value in scales[name].marks]
    return svg(
        700, 226, parts, "Trials as lines through their hyperparameters to the objective; the best one is marked"
    )


def evidence_chart(series: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return the series that a finding rests on over their steps, at most four of them; None without any to draw."""
    drawn = []
    for item in series[:4]:
        points = [
            (step, value)
            for step, value in zip(item["steps"], item["values"], strict=True)
            if isinstance(value, int | float) and math.isfinite(value)
        ]
        if len(points) > 1:
            drawn.append((item, points))
    if not drawn:
        return None
    steps = [step for _, points in drawn for step, _ in points]
    values = [value for _, points in drawn for _, value in points]
    marks = ticks(min(values), max(values), 4)
    x = Scale(min(steps), max(*steps, min(steps) + 1), 56, 688)
    y = Scale(min(marks[0], *values), max(marks[-1], *values), 140, 16)
    parts = axes(x, y, sorted({round(value) for value in ticks(min(steps), max(steps), 6)}), marks, "step")
    for place, (item, points) in enumerate(drawn):
        name = f"{item['name']} ({item['mode']}, {item['reduction']})"
        parts.append(polyline([(x(step), y(value)) for step, value in points], f"series series-{'abab'[place]}", name))
    return svg(700, 184, parts, "; ".join(f"{item['name']} over the steps" for item, _ in drawn))


class _Column:
    """Places values on a vertical axis: numbers by size, words one below the other."""

    def __init__(self, values: Sequence[Any]) -> None:
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        distinct = sorted(set(values)) if numeric else sorted(set(values), key=str)
        if numeric and len(distinct) > 4:
            low, high = distinct[0], distinct[-1]
            logarithmic = low > 0 and high / low >= 20
            self._scale: Scale | None = Scale(low, high, 206, 40, logarithmic)
            middle = math.sqrt(low * high) if logarithmic else (low + high) / 2
            self.marks: list[Any] = [low, middle, high]
            self._rows: dict[Any, float] = {}
        else:
            rows = Scale(0, max(len(distinct) - 1, 1), 206, 40)
            self._scale = None
            self.marks = distinct
            self._rows = {value: rows(index) if len(distinct) > 1 else 123.0 for index, value in enumerate(distinct)}

    def __call__(self, value: Any) -> float:
        return self._scale(value) if self._scale is not None else self._rows[value]


def reliability_chart(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Markup:
    """Return how often answers of some confidence were right, before and after calibration."""
    x, y = Scale(0, 1, 48, 330), Scale(0, 1, 300, 18)
    shares = [0, 0.25, 0.5, 0.75, 1]
    parts = axes(x, y, shares, shares, "stated probability")
    parts.append(line(x(0), y(0), x(1), y(1), "baseline"))
    for rows, kind, name in ((before, "series-b", "before"), (after, "series-a", "after")):
        points = [(x(row["confidence"]), y(row["accuracy"])) for row in rows]
        parts.append(polyline(points, f"series {kind}"))
        most = max((row["images"] for row in rows), default=1)
        parts += [
            dot(
                *point,
                2.5 + 5 * math.sqrt(row["images"] / most),
                f"{kind} soft",
                f"{name}: said {100 * row['confidence']:.0f} %, right {100 * row['accuracy']:.0f} % of {row['images']}",
            )
            for point, row in zip(points, rows, strict=True)
        ]
    return svg(350, 344, parts, "Share of right answers against stated probability, before and after calibration")


def compact_confusion(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Return the confusion matrix of many classes as a picture without numbers."""
    size = 600 / len(names)
    parts = [box(0, 0, 600, 600, "frame")]
    for row, counts in enumerate(confusion):
        total = sum(counts) or 1
        parts += [
            box(
                column * size,
                row * size,
                size,
                size,
                "accent" if row == column else "wrong",
                opacity=max(count / total, 0.15),
                title=f"{names[row]} taken for {names[column]}: {count}",
            )
            for column, count in enumerate(counts)
            if count
        ]
    return svg(600, 600, parts, f"Confusion matrix of {len(names)} classes: rows are true classes, columns answers")


def _describe(trial: Trial, tuning: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} {_cell(value)}" for name, value in trial["hyperparameters"].items())
    return f"trial {trial['number']}: {values}; {tuning['objective']} {number(trial['value'])}"


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else str(value)
