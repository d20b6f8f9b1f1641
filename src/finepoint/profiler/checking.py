"""Judging a recording by every rule, and writing the judgements where tools look for them."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

from finepoint.files import write_json
from finepoint.profiler.recording import ProfilerRecording
from finepoint.profiler.rules.base import AWS_RULES, OWN_RULES
from finepoint.results import RuleResult

# Where SageMaker puts them, below a job's folder.
REPORT_FOLDER = Path("rule-output") / "ProfilerReport" / "profiler-output"
_MODULES = ("aws_framework", "aws_system", "own_compute", "own_loading", "own_loop", "own_machine")


def aws_rule_names() -> list[str]:
    """Return the names of the AWS-documented rules."""
    _load()
    return sorted(AWS_RULES)


def judge_aws(recording: ProfilerRecording) -> list[RuleResult]:
    """Return what each AWS-documented rule says at its defaults."""
    _load()
    return [kind().judge(recording) for _, kind in sorted(AWS_RULES.items())]


def judge_own(recording: ProfilerRecording) -> list[RuleResult]:
    """Return what each rule of ours says: findings first, the one that promises most on top; passes; the rest."""
    _load()
    results = [kind().judge(recording) for kind in OWN_RULES.values()]
    return sorted(results, key=_rank)


def promised_saving(result: RuleResult) -> float:
    """Return the share of the loop's time that a finding promises to save.

    Where only measuring tells, half of what it is about.
    """
    speedup = result.evidence.get("predicted_speedup")
    if speedup:
        return 1 - 1 / float(speedup)
    return float(result.evidence.get("share_of_time", 0.0)) / 2


def write_judgements(job: Path, results: list[RuleResult]) -> Path:
    """Write `profiler-reports/<Rule>.json` of the AWS-documented rules, with their keys, and return that folder.

    Tools of SageMaker's users read these. A rule that could not judge has not triggered there, as in SageMaker's; that
    it could not judge is in its `Details`, under a key of ours.
    """
    folder = job / REPORT_FOLDER / "profiler-reports"
    for result in results:
        content = dict(result.evidence)
        if result.status not in ("NoIssuesFound", "IssuesFound"):
            content["Details"] = {**content["Details"], "finepoint_status": result.status, "reason": result.reason}
        write_json(folder / f"{result.rule}.json", finite(content))
    return folder


def finite(value: Any) -> Any:
    """Return a value with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rank(result: RuleResult) -> tuple[int, float, str]:
    order = {"IssuesFound": 0, "Error": 1, "NoIssuesFound": 2, "NotApplicable": 3}[result.status]
    urgent = bool(result.evidence.get("urgent"))
    return (order, -(1 + urgent) * (promised_saving(result) + urgent) if order == 0 else 0.0, result.rule)


def _load() -> None:
    for module in _MODULES:
        import_module(f"finepoint.profiler.rules.{module}")
