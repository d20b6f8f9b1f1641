"""What a rule is: a frozen dataclass whose fields are its parameters and whose `judge` reads a recording.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class NoLoss(Rule):
...     '''Fires when a recording has no loss.'''
...     def judge(self, recording):
...         if not list(recording.names(collection="losses")):
...             return self.issue(0, "TRAIN", meaning="No loss was seen.", remedy="compute one")
...         return self.clean()

`@rule` adds such a class to those that are judged; a package may offer its own through the entry point group
`finepoint.rules`, each entry a class.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, TypeVar

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.parameters import parse_parameters
from finepoint.debugger.rules.result import RuleResult
from finepoint.errors import ConfigurationError

_RULES: dict[str, type[Rule]] = {}
_MODULES = (
    "activations",
    "comparing",
    "gradients",
    "heads",
    "initialization",
    "inputs",
    "labels",
    "learning_rate",
    "losses",
    "modes",
    "numbers",
    "parameters_used",
    "progress",
    "serving",
    "values",
)


class Rule(abc.ABC):
    """A question that a recording answers. Subclasses are frozen dataclasses; their fields are the parameters."""

    # Whether it is judged without being named: not where only the user knows what to look at, or what is too much.
    default: ClassVar[bool] = True

    @abc.abstractmethod
    def judge(self, recording: Recording) -> RuleResult:
        """Return what this rule says of a recording; the same for the same recording."""

    @property
    def name(self) -> str:
        """The rule's name."""
        return type(self).__name__

    @classmethod
    def with_parameters(cls, given: Mapping[str, Any]) -> Rule:
        """Return the rule with parameters by name, as values or as text.

        Raises:
            ConfigurationError: parameters that it does not have, or values that are none of theirs.
        """
        return cls(**parse_parameters(cls, given))

    def clean(self, **evidence: Any) -> RuleResult:
        """Return that nothing was found; `evidence` holds the numbers that were compared."""
        return RuleResult(self.name, "NoIssuesFound", evidence=evidence)

    def issue(self, step: int, mode: str, *, meaning: str, remedy: str, **evidence: Any) -> RuleResult:
        """Return that an issue was found, and where first."""
        return RuleResult(self.name, "IssuesFound", int(step), mode, evidence, meaning, remedy)

    def not_applicable(self, reason: str) -> RuleResult:
        """Return that the rule could not judge this recording, and why."""
        return RuleResult(self.name, "NotApplicable", reason=reason)


R = TypeVar("R", bound=type[Rule])


def rule(kind: R) -> R:
    """Add a rule to those that are judged; a class decorator."""
    _RULES[kind.__name__] = kind
    return kind


def all_rules() -> dict[str, type[Rule]]:
    """Return every rule by name: finepoint's and those of installed packages."""
    for module in _MODULES:
        import_module(f"finepoint.debugger.rules.{module}")
    for entry in entry_points(group="finepoint.rules"):
        if entry.name not in _RULES:
            rule(entry.load())
    return dict(sorted(_RULES.items()))


def find_rule(name: str) -> type[Rule]:
    """Return a rule by its name, `VanishingGradient`, or as SageMaker's Python SDK writes it, `vanishing_gradient`.

    Raises:
        ConfigurationError: there is none of that name.
    """
    rules = all_rules()
    plain = {_plain(known): known for known in rules}
    if _plain(name) not in plain:
        raise ConfigurationError(f"there is no rule {name!r}; there are {', '.join(rules)}")
    return rules[plain[_plain(name)]]


def _plain(name: str) -> str:
    return re.sub(r"[_\-]|rule$", "", name.lower())
