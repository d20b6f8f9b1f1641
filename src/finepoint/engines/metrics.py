"""Metrics of a script, read from the lines that it prints, as SageMaker's metric definitions do."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finepoint.errors import ConfigurationError

_NEAR_LINES = 3
# Below this likeness (0..1, difflib's) a line is not shown as one that nearly matched.
_LIKENESS = 0.5


@dataclass(frozen=True)
class MetricDefinition:
    """A metric's name, and the regular expression whose first group is its value.

    >>> MetricDefinition("loss", r"Average loss: ([0-9.]+)").values("Test set: Average loss: 0.25, Accuracy: 9/10")
    [0.25]
    """

    name: str
    regex: str

    def mistakes(self) -> list[str]:
        """Return what is wrong with it, in words."""
        mistakes = []
        if not self.name.strip():
            mistakes.append(f"a metric with the regex '{self.regex}' has no name")
        try:
            groups = re.compile(self.regex).groups
        except re.error as error:
            place = f" at character {error.pos + 1}" if error.pos is not None else ""
            mistakes.append(f"metric {self.name}: '{self.regex}' is no regular expression: {error.msg}{place}")
        else:
            if groups == 0:
                mistakes.append(
                    f"metric {self.name}: '{self.regex}' has no group; put parentheses around the number: "
                    f"'{self.name}: ([0-9.]+)'"
                )
        return mistakes

    def values(self, line: str) -> list[float]:
        """Return the values that a line holds; what is captured and is no finite number is left out."""
        found = []
        for match in re.finditer(self.regex, line):
            number = _number(match.group(1))
            if number is not None:
                found.append(number)
        return found


def parse_metric(text: str) -> MetricDefinition:
    """Return the definition that `NAME=REGEX` writes.

    Raises:
        ConfigurationError: it is not of that form, or the regex cannot be used.

    >>> parse_metric("loss=loss: ([0-9.]+)")
    MetricDefinition(name='loss', regex='loss: ([0-9.]+)')
    """
    name, separator, regex = text.partition("=")
    if not separator or not name.strip() or not regex:
        raise ConfigurationError(f"metric definition {text!r} is not NAME=REGEX")
    metric = MetricDefinition(name.strip(), regex)
    if mistakes := metric.mistakes():
        raise ConfigurationError(mistakes)
    return metric


def explain_missing(metric: MetricDefinition, lines: Iterable[str]) -> str:
    """Return why a metric was not found in a log, with the lines that nearly matched.

    Args:
        metric: that was looked for.
        lines: of the log.
    """
    words = f"metric {metric.name}: no line of the log matches '{metric.regex}'"
    kept = [line.strip() for line in lines if line.strip()]
    if not kept:
        return f"{words}; the log is empty"
    strange = [(line, text) for line in kept for text in _captured(metric, line)]
    if strange:
        line, text = strange[-1]
        return f"{words} with a number: from {line!r} it takes {text!r}, which is none; narrow the group"
    near = _nearest(metric.regex, kept)
    if not near:
        return f"{words}, nor comes near to it; the log ends: {kept[-1]!r}"
    return f"{words}; these come nearest:" + "".join(f"\n    {line}" for line in near)


def _captured(metric: MetricDefinition, line: str) -> list[str]:
    found = (match.group(1) for match in re.finditer(metric.regex, line))
    return [text or "" for text in found if _number(text) is None]


def _nearest(regex: str, lines: Sequence[str]) -> list[str]:
    """Return the lines that are most like the regex's literal words, the likest first, without repetition."""
    wanted = {word.lower() for word in re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]|\[[^\]]*\]", " ", regex))}
    scores: dict[str, float] = {}
    for line in lines:
        have = [word.lower() for word in re.findall(r"[A-Za-z]{2,}", line)]
        if not wanted or not have or not re.search(r"\d", line):
            continue
        best = [max(difflib.SequenceMatcher(None, word, other).ratio() for other in have) for word in wanted]
        shape = re.sub(r"\d+", "0", line)  # epochs print the same line many times
        scores.setdefault(shape, 0.0)
        scores[shape] = max(scores[shape], sum(best) / len(best))
    ranked = sorted((shape for shape in scores if scores[shape] >= _LIKENESS), key=lambda shape: -scores[shape])
    return [
        next(line for line in reversed(lines) if re.sub(r"\d+", "0", line) == shape) for shape in ranked[:_NEAR_LINES]
    ]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
