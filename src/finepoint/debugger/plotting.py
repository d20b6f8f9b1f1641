"""Plots of a recording; matplotlib is an extra."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording, Series
from finepoint.errors import ConfigurationError, NotFoundError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More lines than that tell nothing apart.
_MOST_LINES = 24


def matching(recording: Recording, name_or_regex: str, reduction: str | None = None) -> list[Series]:
    """Return the series whose name matches, of all modes that have any.

    Args:
        recording: to look in.
        name_or_regex: a name, or a pattern to be found in names.
        reduction: by default `value`, `mean` or whichever there is.

    Raises:
        ConfigurationError: it is no pattern.
        NotFoundError: nothing matches.
    """
    try:
        re.compile(name_or_regex)
        names = [name_or_regex] if name_or_regex in recording.names() else recording.names(name_or_regex)
    except re.error as error:
        raise ConfigurationError(f"{name_or_regex!r} is no regular expression: {error}") from error
    found = []
    for name in names:
        for mode in recording.modes:
            series = recording.series(name, reduction, mode)
            if not len(series):
                series = scalars_of(recording, name, mode)
            if len(series):
                found.append(series)
    if not found:
        raise NotFoundError(f"nothing recorded matches {name_or_regex!r}; `finepoint debug show` lists the names")
    return found


def scalars_of(recording: Recording, name: str, mode: ModeKeys) -> Series:
    """Return whole tensors that are one number each (a loss that smdebug's hook saved) as a series."""
    import numpy as np

    places = [place for place in recording.tensors(name, mode) if place.rank == recording.ranks[0]]
    values = [recording.tensor(name, place.step, mode, rank=place.rank) for place in places]
    if any(value.size != 1 for value in values):
        return recording.series(name, "none", mode)
    steps = np.array([place.step for place in places], np.int64)
    at = np.array([place.global_step for place in places], np.int64)
    numbers = np.array([float(value.reshape(())) for value in values])
    none = np.zeros(len(places))
    return Series(name, mode, "value", steps, numbers, at, none, none.astype(np.int64))


def plot(recording: Recording, name_or_regex: str, reduction: str | None = None) -> Figure:
    """Return a figure of everything that matches: training below, evaluation on a second axis of steps above.

    Raises:
        ConfigurationError: matplotlib is not installed, or too much matches.
        NotFoundError: nothing matches.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigurationError("plots need matplotlib: pip install 'finepoint[plot]'") from None
    found = matching(recording, name_or_regex, reduction)
    if len(found) > _MOST_LINES:
        raise ConfigurationError(
            f"{len(found)} series match {name_or_regex!r}; at most {_MOST_LINES} fit into one plot: narrow it down"
        )
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("step (TRAIN)")
    axes.set_ylabel(found[0].reduction if found[0].reduction != "value" else found[0].name)
    trained = any(series.mode is ModeKeys.TRAIN for series in found)
    above = axes.twiny() if trained and any(series.mode is not ModeKeys.TRAIN for series in found) else axes
    if above is not axes:
        above.set_xlabel("step (EVAL)")
    elif not trained:
        axes.set_xlabel(f"step ({found[0].mode.name})")
    lines = []
    for place, series in enumerate(found):
        own = axes if series.mode is ModeKeys.TRAIN else above
        label = f"{series.name} ({series.mode.name}, {series.reduction})"
        style = "-" if series.mode is ModeKeys.TRAIN else "--"
        lines += own.plot(series.steps, series.values, style, color=f"C{place % 10}", label=label, marker=".")
    axes.legend(handles=lines, fontsize="small")
    axes.grid(alpha=0.3)
    return figure
