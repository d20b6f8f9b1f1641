"""What a rule says of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["NoIssuesFound", "IssuesFound", "Error", "NotApplicable"]


@dataclass(frozen=True, slots=True)
class RuleResult:
    """A rule's judgement.

    Args:
        rule: its name.
        status: `NoIssuesFound` is the only pass; `Error` and `NotApplicable` mean that the rule could not judge.
        first_step: the step, counted in `mode`, at which what was recorded sufficed to say so; None without an issue.
        mode: `TRAIN` or `EVAL`; None without an issue.
        evidence: the numbers, names and places it rests on; values are JSON. Under `series`, where there is
            something to draw, `[{name, mode, reduction, steps, values}]`, at most 100 points each.
        meaning: one sentence in plain words.
        remedy: what to do, ideally something one can type.
        reason: why the rule could not judge; empty otherwise.

    >>> RuleResult("DeadRelu", "NotApplicable", reason="no ReLU was seen").passed
    False
    """

    rule: str
    status: Status
    first_step: int | None = None
    mode: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    meaning: str = ""
    remedy: str = ""
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the rule could judge and found nothing."""
        return self.status == "NoIssuesFound"

    @property
    def fired(self) -> bool:
        """Whether the rule found an issue."""
        return self.status == "IssuesFound"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field; numbers that are not finite become their names as text."""
        return {
            "rule": self.rule,
            "status": self.status,
            "first_step": self.first_step,
            "mode": self.mode,
            "evidence": _json(self.evidence),
            "meaning": self.meaning,
            "remedy": self.remedy,
            "reason": self.reason,
        }


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if hasattr(value, "item"):  # a NumPy number
        value = value.item()
    if isinstance(value, float):
        finite = value == value and abs(value) != float("inf")
        return float(f"{value:.6g}") if finite else str(value)
    return value
