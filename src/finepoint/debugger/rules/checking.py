"""Judging a recording by rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, all_rules, find_rule
from finepoint.debugger.rules.result import RuleResult
from finepoint.errors import ConfigurationError

Parameters = Mapping[str, Mapping[str, Any]]


def choose_rules(names: Sequence[str] | None = None, parameters: Parameters | None = None) -> list[Rule]:
    """Return rules with their parameters.

    Args:
        names: of rules; by default all that judge without being asked, and those that are given parameters.
        parameters: by rule; values may be text.

    Raises:
        ConfigurationError: rules or parameters that there are not; all of them.

    >>> choose_rules(["vanishing_gradient"], {"VanishingGradient": {"threshold": "1e-5"}})
    [VanishingGradient(threshold=1e-05, ratio_threshold=1e-05)]
    """
    mistakes: list[str] = []
    given: dict[str, Mapping[str, Any]] = {}
    for name, values in (parameters or {}).items():
        kind = _found(name, mistakes)
        if kind is not None:
            given[kind.__name__] = values
    if names is None:
        kinds = [kind for name, kind in all_rules().items() if kind.default or name in given]
    else:
        kinds = [kind for kind in (_found(name, mistakes) for name in names) if kind is not None]
        missing = sorted(set(given) - {kind.__name__ for kind in kinds})
        mistakes += [f"{name} is given parameters but is not among the rules" for name in missing]
    rules = []
    for kind in dict.fromkeys(kinds):
        try:
            rules.append(kind.with_parameters(given.get(kind.__name__, {})))
        except ConfigurationError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigurationError(mistakes)
    return rules


def check_recording(
    recording: Recording, rules: Sequence[str | Rule] | None = None, parameters: Parameters | None = None
) -> list[RuleResult]:
    """Return what rules say of a recording.

    Args:
        recording: of a job that ended, was killed, or runs.
        rules: names, or rules with their parameters; by default all that judge without being asked.
        parameters: by rule; values may be text, as SageMaker passes them.

    Raises:
        ConfigurationError: rules or parameters that there are not.
    """
    made = [item for item in rules or () if isinstance(item, Rule)]
    names = None if rules is None else [item for item in rules if isinstance(item, str)]
    return [judge(item, recording) for item in (*made, *choose_rules(names, parameters))]


def judge(chosen: Rule, recording: Recording) -> RuleResult:
    """Return what a rule says; a rule that raises says `Error`, and why."""
    try:
        return chosen.judge(recording)
    except Exception as error:  # noqa: BLE001 - a rule may be anyone's; the others are to be judged all the same
        return RuleResult(chosen.name, "Error", reason=f"the rule failed: {type(error).__name__}: {error}")


def _found(name: str, mistakes: list[str]) -> type[Rule] | None:
    try:
        return find_rule(name)
    except ConfigurationError as error:
        mistakes += error.mistakes
        return None
