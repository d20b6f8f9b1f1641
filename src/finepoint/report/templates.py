"""The templates of the pages, and the filters in them."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2

from finepoint.report.scales import number

ASSETS = Path(__file__).parent / "assets"


def environment() -> jinja2.Environment:
    """Return what renders the templates of this room: everything from outside is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["percent"] = _percent
    made.filters["count"] = lambda value: f"{value:,}"
    made.filters["short"] = lambda value: number(value) if isinstance(value, int | float) else value
    made.filters["megabytes"] = lambda value: f"{value / 1e6:.1f} MB"
    return made


def page_bytes(page: str) -> bytes:
    """Return a page as UTF-8; bytes of names that are not UTF-8 are shown as U+FFFD.

    >>> page_bytes("caf\\udce9").decode()
    'caf\ufffd'
    """
    return re.sub("[\ud800-\udfff]", "\ufffd", page).encode()


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
