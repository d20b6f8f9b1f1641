"""What Jupyter shows of things: HTML tables and charts, brought up to date while a cell runs.

Outside of Jupyter nothing is displayed: there the lines that are printed say the same.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from finepoint.report.charts import evidence_chart

# The charts have the classes of the report's stylesheet; a notebook has none.
_STYLE = (
    "<style>.finepoint svg{max-width:560px}.finepoint .series{fill:none;stroke:#2563eb;stroke-width:2}"
    ".finepoint .grid{stroke:#8884}.finepoint text{fill:currentColor;font-size:12px}</style>"
)
# Jupyter redraws the whole output for each update.
_REFRESH_SECONDS = 0.5


class Displayable(Protocol):
    """What Jupyter can show."""

    def _repr_html_(self) -> str: ...


class Shown:
    """Something that is shown below the running cell, and changes there.

    Args:
        what: is shown.
    """

    def __init__(self, what: Displayable) -> None:
        self._what = what
        self._handle: Any = None
        self._refreshed_at = time.monotonic()
        if in_jupyter():
            from IPython.display import display

            self._handle = display(what, display_id=True)

    def refresh(self, *, last: bool = False) -> None:
        """Show it as it is now, unless that was done a moment ago; `last` shows it in any case."""
        now = time.monotonic()
        if self._handle is not None and (last or now - self._refreshed_at > _REFRESH_SECONDS):
            self._handle.update(self._what)
            self._refreshed_at = now


def in_jupyter() -> bool:
    """Return whether this process answers a notebook, which can show HTML."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "display_pub", None) is not None and hasattr(shell, "kernel")


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table, a column for each key; every value is escaped.

    >>> html_table([{"lr": 0.1, "name": "<b>"}])
    '<table><tr><th>lr</th><th>name</th></tr><tr><td>0.1</td><td>&lt;b&gt;</td></tr></table>'
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = ("".join(f"<td>{_cell(row.get(name))}</td>" for name in names) for row in rows)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def html_progress(done: int, total: int) -> str:
    """Return a bar.

    >>> html_progress(1, 4)
    '<progress value="1" max="4"></progress> 1 of 4'
    """
    return f'<progress value="{done}" max="{total}"></progress> {done} of {total}'


def metric_charts(readings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a chart for each metric that was read more than once.

    Args:
        readings: `{"name", "value", "at"}` each, in the order of reading.
    """
    series: dict[str, list[float]] = {}
    for reading in readings:
        series.setdefault(reading["name"], []).append(float(reading["value"]))
    charts = (
        evidence_chart(
            [{"name": name, "mode": "log", "reduction": "value", "steps": range(len(values)), "values": values}]
        )
        for name, values in series.items()
    )
    return [f'<div class="finepoint">{_STYLE}{chart}</div>' for chart in charts if chart is not None]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return html.escape(f"{value:.6g}" if isinstance(value, float) else str(value))
