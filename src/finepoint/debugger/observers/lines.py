"""Lines: numbers with names that the program prints, which are its metrics."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from finepoint.debugger.recorder import Recorder

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
_NAMED = re.compile(rf"([A-Za-z][A-Za-z0-9_ ./-]{{0,40}}?)\s*[:=]\s*({_NUMBER})(?![\w.])\s*(%?)")
# A program that prints more than that prints no metrics.
_MOST_LINES = 10_000
_LONGEST = 500


def named_numbers(line: str) -> dict[str, float]:
    """Return the numbers of a line by the word before them.

    >>> named_numbers("Epoch 3 train loss: 0.25, acc=91.5%")
    {'Epoch 3 train loss': 0.25, 'acc': 91.5}
    """
    return {name.strip(" ,;|-"): float(value) for name, value, _ in _NAMED.findall(line[:_LONGEST])}


class Lines:
    """Notes the metrics among the lines that the program prints on standard output."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._rest = ""
        self._count = 0
        self._stream = sys.stdout
        self._write: Callable[[str], int] = self._stream.write
        self._own: Any = self._written
        try:
            self._stream.write = self._own  # type: ignore[method-assign]
        except AttributeError:
            recorder.writer.note("printed lines are not seen: standard output cannot be watched here")
            return
        recorder.on_close.append(self._stop)

    def _written(self, text: str) -> int:
        count = self._write(text)
        if self._count < _MOST_LINES and not self._recorder.closed:
            *lines, self._rest = (self._rest + text).split("\n")
            self._rest = self._rest[-_LONGEST:]
            for line in lines:
                self._note(line)
        return count

    def _note(self, line: str) -> None:
        numbers = named_numbers(line)
        if not numbers:
            return
        self._count += 1
        step = self._recorder.step
        number, mode = (step.number, step.mode) if step is not None else (None, None)
        self._recorder.writer.fact("line", number, mode, text=line[:_LONGEST], numbers=numbers)

    def _stop(self) -> None:
        if vars(self._stream).get("write") is self._own:
            del self._stream.write
