"""Rules written for smdebug, in a file of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.rules.custom import CustomRule
from finepoint.debugger.writing import RecordingWriter
from finepoint.engines.debugging import debugger_configuration, judge_job
from finepoint.errors import ConfigurationError

SOURCE = """
from smdebug.rules.rule import Rule

class CustomGradientRule(Rule):
    def __init__(self, base_trial, threshold=10.0):
        super().__init__(base_trial)
        self.threshold = float(threshold)

    def invoke_at_step(self, step):
        for name in self.base_trial.tensor_names(collection="gradients"):
            if self.base_trial.tensor(name).reduction_value(step, "mean", abs=True) > self.threshold:
                return True
        return False

class Broken(Rule):
    def invoke_at_step(self, step):
        return 1 / 0
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "rule.py").write_text(SOURCE)
    writer = RecordingWriter(tmp_path / "debug-output")
    writer.fact("collection", name="gradients", tensors=["gradient/fc.weight"])
    for step in range(4):
        writer.values(step, ModeKeys.TRAIN, {("gradient/fc.weight", "abs_mean"): float(step)})
    writer.close()
    return tmp_path


def rule(job: Path, name: str, **parameters: str) -> CustomRule:
    return CustomRule("mine", str(job / "rule.py"), name, parameters)


def test_the_first_step_at_which_the_condition_is_met_is_told(job: Path) -> None:
    found = rule(job, "CustomGradientRule", threshold="1.5").judge(job)
    assert (found.status, found.first_step) == ("IssuesFound", 2)
    assert rule(job, "CustomGradientRule").judge(job).passed


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [("Broken", {}, "ZeroDivisionError"), ("Nix", {}, "no class Nix"), ("CustomGradientRule", {"x": "1"}, "TypeError")],
)
def test_a_rule_that_fails_is_no_pass(job: Path, name: str, parameters: dict[str, str], words: str) -> None:
    found = rule(job, name, **parameters).judge(job)
    assert found.status == "Error"
    assert words in found.reason


def test_a_job_is_judged_by_it_beside_the_others(job: Path) -> None:
    own = {"name": "mine", "source": str(job / "rule.py"), "rule_to_invoke": "CustomGradientRule", "parameters": {}}
    results = judge_job(job, debugger_configuration(rules={"Overfit": {}}, custom=[own]), print)
    assert [result.rule for result in results] == ["Overfit", "mine"]
    with pytest.raises(ConfigurationError, match="is not a file"):
        debugger_configuration(custom=[{**own, "source": "/nowhere.py"}])
