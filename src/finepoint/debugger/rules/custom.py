"""Rules written for smdebug: a class with `invoke_at_step`, in a file of the user's.

>>> class LargeLoss(StepRule):
...     def __init__(self, base_trial, threshold="10"):
...         super().__init__(base_trial)
...         self.threshold = float(threshold)
...     def invoke_at_step(self, step):
...         names = self.base_trial.tensor_names(collection="losses", step=step)
...         return any(self.base_trial.tensor(name).value(step) > self.threshold for name in names)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from finepoint.debugger.rules.result import RuleResult
from finepoint.debugger.trial import Trial, create_trial
from finepoint.errors import ConfigurationError


class RuleEvaluationConditionMet(Exception):  # noqa: N818 - smdebug's name
    """A rule's condition is met at a step."""

    def __init__(self, rule_name: str, step: int, end_of_rule: bool = False) -> None:
        self.rule_name, self.step, self.end_of_rule = rule_name, step, end_of_rule
        super().__init__(f"Evaluation of the rule {rule_name} at step {step} resulted in the condition being met")


class StepRule:
    """The base of rules written for smdebug, which names it `Rule`.

    Args:
        base_trial: the recording.
        action_str: accepted and not used; actions are the job's.
        other_trials: recordings to compare with.
    """

    def __init__(self, base_trial: Trial, action_str: str = "", other_trials: Sequence[Trial] | None = None) -> None:
        self.base_trial, self.other_trials = base_trial, other_trials
        self.rule_name = type(self).__name__

    def invoke_at_step(self, step: int) -> bool:
        """Return whether the condition is met at a step, counted over all modes."""
        raise NotImplementedError

    def invoke(self, step: int) -> None:
        """Judge a step.

        Raises:
            RuleEvaluationConditionMet: the condition is met.
        """
        if self.invoke_at_step(step):
            raise RuleEvaluationConditionMet(self.rule_name, step)


def invoke_rule(
    rule_obj: StepRule, start_step: int = 0, end_step: int | None = None, raise_eval_cond: bool = False
) -> int | None:
    """Judge every recorded step in order, and return the first at which the condition is met.

    Raises:
        RuleEvaluationConditionMet: it is met, and `raise_eval_cond` is set.
    """
    for step in rule_obj.base_trial.steps():
        if step < start_step or (end_step is not None and step >= end_step):
            continue
        try:
            rule_obj.invoke(step)
        except RuleEvaluationConditionMet:
            if raise_eval_cond:
                raise
            return int(step)
    return None


@dataclass(frozen=True)
class CustomRule:
    """A rule in a file of the user's, as `Rule.custom` names it.

    Args:
        name: of the rule in the job's results.
        source: the file.
        rule_to_invoke: its class there.
        parameters: of the class's constructor, beside the trial; text, as SageMaker passes them.
    """

    name: str
    source: str
    rule_to_invoke: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def mistakes(self) -> list[str]:
        """Return what is wrong with it, in words, as far as can be said without running the file."""
        if not Path(self.source).is_file():
            return [f"rule {self.name}: {self.source} is not a file"]
        if not self.rule_to_invoke.isidentifier():
            return [f"rule {self.name}: rule_to_invoke is {self.rule_to_invoke!r}; it must be a class of {self.source}"]
        return []

    def judge(self, path: Path) -> RuleResult:
        """Return what it says of the recording in a folder; a rule that raises says `Error`, and why.

        The file is run in this process, with the rights of whoever runs it: it was named for that.
        """
        try:
            module = _load(Path(self.source))
            kind = getattr(module, self.rule_to_invoke, None)
            if kind is None:
                raise ConfigurationError(f"{self.source} has no class {self.rule_to_invoke}")
            step = invoke_rule(kind(create_trial(path), **self.parameters))
        except Exception as error:  # noqa: BLE001 - anyone's code; the other rules are to be judged all the same
            return RuleResult(self.name, "Error", reason=f"the rule failed: {type(error).__name__}: {error}")
        if step is None:
            return RuleResult(self.name, "NoIssuesFound")
        meaning = f"{self.rule_to_invoke}.invoke_at_step returned true at step {step}, counted over all modes."
        return RuleResult(
            self.name, "IssuesFound", step, "GLOBAL", {}, meaning, f"see what it looks for in {self.source}"
        )


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"finepoint_rule_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
