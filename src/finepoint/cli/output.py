"""Printing: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def results() -> Console:
    """Return the console for results (standard output)."""
    from rich.console import Console

    # Where nobody looks on, lines are as long as they are: a path must not be broken in two.
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160)


def messages() -> Console:
    """Return the console for messages (standard error)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print a message to standard error, as plain text."""
    sys.stderr.write(text + "\n")


def complain(text: str) -> None:
    """Print an error to standard error."""
    from rich.text import Text

    console = messages()
    console.print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a JSON value to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def show(*parts: RenderableType) -> None:
    """Print results to standard output."""
    console = results()
    for part in parts:
        console.print(part)


def plain(text: object) -> str:
    """Return text from outside (names of classes, files) with rich's markup taken out of effect."""
    from rich.markup import escape

    return escape("".join(letter if letter.isprintable() else "\ufffd" for letter in str(text)))


def percent(share: float | None) -> str:
    """Return a share as text.

    >>> percent(0.9312)
    '93.1 %'
    """
    return "–" if share is None else f"{100 * share:.1f} %"
