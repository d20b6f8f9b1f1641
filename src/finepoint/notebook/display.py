"""What Jupyter shows of things: plain HTML tables, every value escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table, a column for each key.

    >>> html_table([{"lr": 0.1, "name": "<b>"}])
    '<table><tr><th>lr</th><th>name</th></tr><tr><td>0.1</td><td>&lt;b&gt;</td></tr></table>'
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = ("".join(f"<td>{_cell(row.get(name))}</td>" for name in names) for row in rows)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return html.escape(f"{value:.6g}" if isinstance(value, float) else str(value))
