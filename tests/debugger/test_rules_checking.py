"""Choosing rules, their parameters, own rules, and judging beside a job that runs."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from tests.debugger.made import LOSS, TRAIN, Made

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules import base
from finepoint.debugger.rules.actions import PostToWebhook, RunCommand, StopTraining
from finepoint.debugger.rules.base import Rule, all_rules, find_rule
from finepoint.debugger.rules.checking import check_recording, choose_rules
from finepoint.debugger.rules.live import LiveJudge
from finepoint.debugger.rules.result import RuleResult
from finepoint.debugger.writing import RecordingWriter
from finepoint.errors import ConfigurationError, JobError

# As listed in SageMaker's documentation of its built-in rules (those for deep learning), with their defaults.
DOCUMENTED = {
    "AllZero": {"threshold": 100},
    "CheckInputImages": {"threshold_mean": 0.2, "threshold_samples": 500, "channel": 1},
    "ClassImbalance": {"threshold_imbalance": 10, "threshold_misprediction": 0.7, "samples": 500, "argmax": False},
    "Confusion": {"min_diag": 0.9, "max_off_diag": 0.1, "labels": "labels", "predictions": "predictions"},
    "DeadRelu": {"threshold_inactivity": 1.0, "threshold_layer": 50.0},
    "ExplodingTensor": {"only_nan": False},
    "LossNotDecreasing": {"use_losses_collection": True, "num_steps": 10, "mode": None},
    "Overfit": {"start_step": 0, "patience": 1, "ratio_threshold": 0.1},
    "Overtraining": {"patience_train": 5, "patience_validation": 10, "delta": 0.1},
    "PoorWeightInitialization": {"threshold": 10.0, "distribution_range": 0.001, "patience": 5, "steps": 10},
    "SaturatedActivation": {
        "threshold_tanh_min": -9.4999,
        "threshold_tanh_max": 9.4999,
        "threshold_sigmoid_min": -23,
        "threshold_sigmoid_max": 16.99999,
        "threshold_inactivity": 1.0,
        "threshold_layer": 50.0,
    },
    "SimilarAcrossRuns": {"other_trial": ""},
    "StalledTrainingRule": {"threshold": 1800, "stop_training_on_fire": False},
    "TensorVariance": {"max_threshold": None, "min_threshold": None},
    "UnchangedTensor": {"num_steps": 3, "rtol": 1e-05, "atol": 1e-08, "equal_nan": False},
    "VanishingGradient": {"threshold": 1e-7},
    "WeightUpdateRatio": {"num_steps": None, "large_threshold": 10.0, "small_threshold": 1e-8, "epsilon": 1e-9},
}
OWN = {
    "ActivationOnLogits", "EpochMetricMisscaled", "EvaluatedInTrainMode", "FrozenBatchNormDrift", "FrozenEverything",
    "GradientsNotZeroed", "HeadBottleneck", "InputNotNormalised", "LabelsShuffledOrConstant", "LearningRateTooHigh",
    "LearningRateTooLow", "LogitsForWrongClassCount", "NotANumber", "RandomEvaluation", "TrainServeSkew",
    "UnusedParameters",
}  # fmt: skip


def test_all_documented_rules_are_there_with_their_names_and_defaults() -> None:
    assert set(all_rules()) == set(DOCUMENTED) | OWN
    for name, defaults in DOCUMENTED.items():
        rule = find_rule(name)()
        assert {key: getattr(rule, key) for key in defaults} == defaults


def test_rules_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
    missing = []
    for name, kind in all_rules().items():
        missing += [name] if f"### {name}\n" not in page else []
        missing += [f"{name}.{field}" for field in kind.__dataclass_fields__ if f"`{field}" not in page]  # type: ignore[attr-defined]
    assert missing == []


@pytest.mark.parametrize("name", ["stalled_training_rule", "StalledTraining", "StalledTrainingRule"])
def test_names_of_the_python_sdk_are_understood(name: str) -> None:
    assert find_rule(name).__name__ == "StalledTrainingRule"


def test_parameters_come_as_text_as_sagemaker_passes_them() -> None:
    given = {
        "exploding_tensor": {"only_nan": "True", "collection_names": "weights, losses", "base_trial": "s3://x"},
        "weight_update_ratio": {"num_steps": "", "large_threshold": "5"},
        "LossNotDecreasing": {"num_steps": "10.0", "mode": "EVAL"},
    }
    chosen = {rule.name: rule for rule in choose_rules(list(given), given)}
    assert chosen["ExplodingTensor"] == find_rule("ExplodingTensor")(
        collection_names=("weights", "losses"), only_nan=True
    )
    assert chosen["WeightUpdateRatio"] == find_rule("WeightUpdateRatio")(large_threshold=5.0)
    assert chosen["LossNotDecreasing"] == find_rule("LossNotDecreasing")(mode="EVAL")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        choose_rules(["Vanishing", "Overfit"], {"Overfit": {"patience": "often", "when": 3}, "DeadRelu": {}})
    assert len(error.value.mistakes) == 4
    assert "Overfit.patience is 'often'; it must be a whole number" in error.value.mistakes


def test_rules_that_need_to_be_told_what_to_look_at_are_not_judged_unasked() -> None:
    names = {rule.name for rule in choose_rules()}
    assert "AllZero" not in names and "VanishingGradient" in names
    assert "AllZero" in {rule.name for rule in choose_rules(None, {"AllZero": {"collection_names": "weights"}})}


@dataclass(frozen=True)
class Half(Rule):
    """Fires when the loss has halved."""

    share: float = 0.5

    def judge(self, recording: Recording) -> RuleResult:
        losses = recording.series(LOSS)
        below = losses.steps[losses.values < self.share * losses.values[0]]
        return self.issue(below[0], "TRAIN", meaning="It has halved.", remedy="enjoy") if len(below) else self.clean()


@pytest.fixture
def own_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_RULES", dict(all_rules()))
    entry = EntryPoint("Half", f"{__name__}:Half", "finepoint.rules")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Half)
    monkeypatch.setattr(base, "entry_points", lambda group: [entry] if group == "finepoint.rules" else [])


def test_own_rules_are_found_through_entry_points(own_rule: None) -> None:
    (result,) = check_recording(Made().losses([2.0, 1.5, 0.9]).recording(), ["half"])
    assert (result.rule, result.first_step) == ("Half", 2)


def test_a_rule_that_fails_is_an_error_and_no_pass(own_rule: None) -> None:
    (result,) = check_recording(Made().recording(), ["Half"])
    assert result.status == "Error" and "IndexError" in result.reason and not result.passed


def test_every_rule_of_an_empty_recording_says_why_it_cannot_judge() -> None:
    for result in check_recording(Made().fact("process", pid=1).recording(), list(all_rules())):
        assert result.status == "NotApplicable" and result.reason


def test_a_result_is_json() -> None:
    result = RuleResult("X", "IssuesFound", 1, "TRAIN", {"loss": float("nan"), "of": (1, {"a": 2.0})})
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["evidence"] == {"loss": "nan", "of": [1, {"a": 2}]}


def test_a_job_is_judged_while_it_runs_and_each_finding_told_once(tmp_path: Path) -> None:
    stopped: list[str] = []
    told: list[str] = []
    judge = LiveJudge(
        tmp_path,
        [Half()],
        {"Half": [StopTraining(lambda: stopped.append("stop"))]},
        lambda result: told.append(result.rule),
    )
    assert judge.look() == [] and judge.results()[0].status == "NotApplicable"
    writer = RecordingWriter(tmp_path)
    for step, value in enumerate([2.0, 1.5, 0.9, 1.9]):
        writer.values(step, TRAIN, {(LOSS, "mean"): value})
        writer.seal()
        judge.look()
    assert (told, stopped) == (["Half"], ["stop"])
    assert judge.results()[0].first_step == 2


def test_a_stalled_job_is_seen_although_nothing_is_written(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path)
    writer.values(0, TRAIN, {(LOSS, "mean"): 1.0})
    writer.seal()
    judge = LiveJudge(tmp_path, choose_rules(["StalledTrainingRule"]))
    assert judge.look(now=writer.started + 1700) == []
    assert [result.rule for result in judge.look(now=writer.started + 1900)] == ["StalledTrainingRule"]


FOUND = RuleResult("Half", "IssuesFound", 2, "TRAIN")


def test_a_command_is_given_the_finding(tmp_path: Path) -> None:
    code = (
        f"import os, sys; open({str(tmp_path / 'out')!r}, 'w').write(os.environ['FINEPOINT_RULE'] + sys.stdin.read())"
    )
    RunCommand([sys.executable, "-c", code])(FOUND)
    text = (tmp_path / "out").read_text()
    assert text.startswith("Half{") and json.loads(text[4:])["first_step"] == 2


@pytest.mark.parametrize("action", [RunCommand([sys.executable, "-c", "raise SystemExit(3)"]), RunCommand(["/absent"])])
def test_an_action_that_fails_is_told_and_ends_nothing(action: RunCommand, tmp_path: Path) -> None:
    with pytest.raises(JobError):
        action(FOUND)
    writer = RecordingWriter(tmp_path)
    for step, value in enumerate([2.0, 0.5]):
        writer.values(step, TRAIN, {(LOSS, "mean"): value})
    writer.close()
    judge = LiveJudge(tmp_path, [Half()], {"Half": [action]})
    judge.look()
    assert len(judge.failures) == 1


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[bytes]]]:
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if self.path == "/good" else 500)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_is_told(webhook: tuple[str, list[bytes]]) -> None:
    address, received = webhook
    PostToWebhook(f"{address}/good")(FOUND)
    assert json.loads(received[0])["rule"] == "Half"
    with pytest.raises(JobError, match="was not told of Half"):
        PostToWebhook(f"{address}/bad")(FOUND)
