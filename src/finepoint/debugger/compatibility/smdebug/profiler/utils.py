"""A helper of argument parsers that scripts import from here."""

from __future__ import annotations

import argparse


def str2bool(value: bool | str) -> bool:
    """Return what a flag's text means.

    Raises:
        argparse.ArgumentTypeError: it is neither yes nor no.

    >>> str2bool("Yes"), str2bool("0")
    (True, False)
    """
    if isinstance(value, bool):
        return value
    text = value.lower()
    if text in ("yes", "true", "t", "y", "1"):
        return True
    if text in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{value!r} is neither yes nor no")
