"""What a rule of the profiler is: a frozen dataclass of parameters whose `judge` reads a recording."""

from __future__ import annotations

import abc
from dataclasses import fields, replace
from typing import Any, TypeVar

from finepoint.profiler.recording import ProfilerRecording, total
from finepoint.results import RuleResult

AWS_RULES: dict[str, type[AwsRule]] = {}
OWN_RULES: dict[str, type[OwnRule]] = {}
# Below so many training steps shares are noise.
FEWEST_STEPS = 8
# ... and of so many samples trends are.
FEWEST_SAMPLES = 10


class _Rule(abc.ABC):
    @abc.abstractmethod
    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Return what this rule says of a recording; the same for the same recording."""

    @property
    def name(self) -> str:
        """The rule's name."""
        return type(self).__name__

    def not_applicable(self, reason: str, **evidence: Any) -> RuleResult:
        """Return that the rule could not judge this recording, and why."""
        return RuleResult(self.name, "NotApplicable", evidence=evidence, reason=reason)

    def clean(self, **evidence: Any) -> RuleResult:
        """Return that nothing was found; `evidence` holds the numbers that were compared."""
        return RuleResult(self.name, "NoIssuesFound", evidence=evidence)


class AwsRule(_Rule):
    """A rule that AWS documents, with its name, parameters and defaults; its evidence is its JSON report's content.

    `too_few` is the status on a job shorter than the rule's patience, where SageMaker reports that it did not trigger.
    """

    def report(self, *, violations: int, triggered: int, datapoints: int, details: dict[str, Any]) -> dict[str, Any]:
        """Return evidence with the keys of the JSON report."""
        return {
            "RuleTriggered": triggered,
            "Violations": violations,
            "Details": details,
            "Datapoints": datapoints,
            "RuleParameters": self.parameters(),
        }

    def parameters(self) -> str:
        """Return the parameters as SageMaker writes them: a line `name:value` each.

        The scan interval, which says how often SageMaker looks, is not among them there either.
        """
        named = [item.name for item in fields(self) if item.name != "scan_interval_us"]  # type: ignore[arg-type]
        return "\n".join(f"{name}:{getattr(self, name)}" for name in named)

    def too_few(self, datapoints: int, needed: int) -> RuleResult:
        """Return that there are not enough data points for a judgement."""
        evidence = self.report(violations=0, triggered=0, datapoints=datapoints, details={})
        return self.not_applicable(f"too few data points: {datapoints:,} of more than {needed:,}", **evidence)

    def absent(self, what: str) -> RuleResult:
        """Return that what the rule is about was not there."""
        return self.not_applicable(what, **self.report(violations=0, triggered=0, datapoints=0, details={}))

    def judged(
        self,
        *,
        violations: int,
        datapoints: int,
        details: dict[str, Any],
        triggered: int | None = None,
        meaning: str = "",
        remedy: str = "",
    ) -> RuleResult:
        """Return an issue where the rule triggered, else a pass."""
        triggered = violations if triggered is None else triggered
        evidence = self.report(violations=violations, triggered=triggered, datapoints=datapoints, details=details)
        if triggered:
            return RuleResult(self.name, "IssuesFound", evidence=evidence, meaning=meaning, remedy=remedy)
        return self.clean(**evidence)


class OwnRule(_Rule):
    """A rule of ours, for short jobs too. A finding says what share of time it is about, and what that can give."""

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Return what this rule says of a recording, or why it cannot judge it."""
        reason = self.why_not(recording)
        found = self.not_applicable(reason) if reason else self.look(recording)
        return replace(found, evidence={**found.evidence, "datapoints": self.datapoints(recording)})

    def datapoints(self, recording: ProfilerRecording) -> int:
        """Return how many steps or samples this rule looks at."""
        return round(total(recording.training, "steps"))

    def why_not(self, recording: ProfilerRecording) -> str:
        """Return why there is too little for a judgement; empty where there is enough."""
        return ""

    @abc.abstractmethod
    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Judge a recording that holds enough."""

    def issue(
        self,
        *,
        meaning: str,
        remedy: str,
        share: float,
        speedup: float | None = None,
        change: dict[str, Any] | None = None,
        urgent: bool = False,
        **evidence: Any,
    ) -> RuleResult:
        """Return an issue.

        Args:
            meaning: one sentence in plain words.
            remedy: the exact change.
            share: of the loop's time that this is about, 0 to 1.
            speedup: how many times faster the loop is predicted to be with the change; None where only measuring tells.
            change: the change in a form that `finepoint profile try` can apply.
            urgent: whether the job is in danger, which outranks any share of time.
            evidence: the numbers it rests on.
        """
        share = min(max(share, 0.0), 1.0)
        bound = None if share >= 1 else 1 / (1 - share)
        found = {
            "share_of_time": share,
            "amdahl_bound": bound,
            "predicted_speedup": speedup,
            "change": change,
            "urgent": urgent,
            **evidence,
        }
        return RuleResult(self.name, "IssuesFound", evidence=found, meaning=meaning, remedy=remedy)


class StepRule(OwnRule):
    """A rule of ours about training steps; of a few of them shares are noise."""

    def why_not(self, recording: ProfilerRecording) -> str:
        """Count the steps."""
        steps = round(total(recording.training, "steps"))
        if steps >= FEWEST_STEPS:
            return ""
        return f"too few data points: {steps} training steps after the first, of {FEWEST_STEPS}"


class SampleRule(OwnRule):
    """A rule of ours about samples of the machine; a few of them say nothing of a trend or a share."""

    def why_not(self, recording: ProfilerRecording) -> str:
        """Count the samples of the loop."""
        count = self.datapoints(recording)
        if count >= FEWEST_SAMPLES:
            return ""
        return f"too few data points: {count} samples of the loop, of {FEWEST_SAMPLES}"

    def datapoints(self, recording: ProfilerRecording) -> int:
        """Count the samples of the loop."""
        return len(recording.during_loop())


A = TypeVar("A", bound=type[AwsRule])
O = TypeVar("O", bound=type[OwnRule])  # noqa: E741 - beside A


def aws_rule(kind: A) -> A:
    """Add a rule to those named by AWS; a class decorator."""
    AWS_RULES[kind.__name__] = kind
    return kind


def own_rule(kind: O) -> O:
    """Add a rule to ours; a class decorator."""
    OWN_RULES[kind.__name__] = kind
    return kind
