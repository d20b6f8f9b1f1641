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
    sys.stderr.write(harmless(text) + "\n")


def complain(text: str) -> None:
    """Print an error to standard error."""
    from rich.text import Text

    console = messages()
    console.print(Text.assemble(("error: ", "bold red"), harmless(text)), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a JSON value to standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # A name that is not UTF-8 is escaped as JSON knows it, whatever the terminal can show.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def show(*parts: RenderableType) -> None:
    """Print results to standard output."""
    console = results()
    for part in parts:
        console.print(part)


def plain(text: object) -> str:
    """Return text from outside (names of classes, files) with rich's markup taken out of effect."""
    return plain_lines(str(text).replace("\n", "\ufffd"))


def plain_lines(text: str) -> str:
    """Return text of several lines from outside with rich's markup taken out of effect."""
    from rich.markup import escape

    return escape(harmless(text))


def harmless(text: str) -> str:
    """Return text with everything but line ends that a terminal would obey instead of show made visible.

    >>> harmless("\\x1b[2Jclear")
    '\ufffd[2Jclear'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def percent(share: float | None) -> str:
    """Return a share as text.

    >>> percent(0.9312)
    '93.1 %'
    """
    return "–" if share is None else f"{100 * share:.1f} %"
