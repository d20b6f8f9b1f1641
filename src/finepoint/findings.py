"""A finding: something noticed about data, training or serving, with its evidence and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was noticed, why we think so, and the remedy.

    Args:
        name: the check that noticed it, in CamelCase: `UnreadableImages`.
        severity: `info` needs no action, `warning` costs quality, `error` makes results wrong.
        message: one sentence in plain words.
        evidence: the numbers, names and paths it rests on; values are JSON.
        remedy: what to do, ideally something one can type.

    >>> Finding("TinyClass", "warning", "class 'hat' has 3 images", {"hat": 3}, "add images").to_json()["name"]
    'TinyClass'
    """

    name: str
    severity: Severity
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return {
            "name": self.name,
            "severity": self.severity,
            "message": self.message,
            "evidence": dict(self.evidence),
            "remedy": self.remedy,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """Return the finding that `to_json` wrote."""
        return cls(**value)
