from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.sagemaker.test_training import Killed, killing

from finepoint.cli.runs import _job_row
from finepoint.cli.scripts import best_hyperparameters
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.writing import RecordingWriter
from finepoint.engines.debugging import debugger_configuration
from finepoint.engines.jobs import state_of
from finepoint.engines.local import Watcher
from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.records import JobFolder
from finepoint.engines.rehearsal import container
from finepoint.engines.rehearsal.faults import Fault
from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.rehearsal.shapes import problems
from finepoint.engines.sagemaker import submitted
from finepoint.engines.sagemaker.cleanup import cleanup
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.ledger import ledgers
from finepoint.engines.sagemaker.rates import price, spent
from finepoint.engines.sagemaker.requests import Places, training_request, tuning_request
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.training import SageMakerEngine
from finepoint.engines.sagemaker.tuning import AmtStudy, begin, stop, trial_folder, tune
from finepoint.engines.spec import Channel, JobSpec
from finepoint.errors import ConfigurationError, JobError
from finepoint.tuning.parameters import CategoricalParameter, ContinuousParameter, IntegerParameter

# The loss is the learning rate, so that the best trial can be told without training.
SCRIPT = """
import json, os, pathlib
base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
values = json.loads((base / "input/config/hyperparameters.json").read_text())
print(f"loss={float(values['lr'])};", sorted(values), flush=True)
"""
SPACE = {
    "lr": ContinuousParameter(0.001, 0.1, "Logarithmic"),
    "batch_size": CategoricalParameter([64, 128]),
    "epochs": IntegerParameter(2, 4),
}
ONE_TRIAL = AmtStudy(SPACE, minimize="loss", max_jobs=1)


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    (tmp_path / "train.py").write_text("print('never run here')\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.txt").write_text("1")
    return JobSpec(
        "study",
        entry_point="train.py",
        source_dir=str(tmp_path / "train.py"),
        hyperparameters={"momentum": 0.9},
        channels={"train": Channel(str(tmp_path / "data"))},
        metric_definitions=(MetricDefinition("loss", "loss=(.*?);"),),
    )


@pytest.mark.parametrize("strategy", ["bayesian", "random", "hyperband"])
def test_the_request_is_what_the_service_takes(spec: JobSpec, settings: SageMakerSettings, strategy: str) -> None:
    places = Places(
        "s3://photos/c.tar.gz", "train.py", {"train": "s3://photos/d/"}, "s3://photos/jobs", "s3://photos/k"
    )
    training = training_request("study-1", spec, settings, "us-east-1", places)
    request = tuning_request(
        "study-1",
        training,
        SPACE,
        ("minimize", "loss"),
        strategy=strategy,
        max_jobs=4,
        max_parallel_jobs=2,
        early_stopping="auto",
        seed=1,
        warm_start=("earlier",),
    )
    assert problems("CreateHyperParameterTuningJob", request) == []
    config = request["HyperParameterTuningJobConfig"]
    assert config["TrainingJobEarlyStoppingType"] == ("Off" if strategy == "hyperband" else "Auto")
    ranges = config["ParameterRanges"]
    assert ranges["ContinuousParameterRanges"][0]["ScalingType"] == "Logarithmic"
    assert ranges["CategoricalParameterRanges"][0]["Values"] == ['"64"', '"128"']


def test_a_study_runs_its_trials_and_reads_the_best_back(
    engine: SageMakerEngine,
    cloud: Cloud,
    rehearsal: Rehearsal,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(container, "_TRAIN", SCRIPT)
    rehearsal.faults.add(Fault("CreateHyperParameterTuningJob", "timeout"))
    study = AmtStudy(SPACE, minimize="loss", max_jobs=4, max_parallel_jobs=2)
    record = tune(engine, tmp_path / "study", spec, study)
    objectives = [trial["objective"] for trial in record["trials"]]
    assert len(objectives) == 4
    assert record["best"]["objective"] == pytest.approx(min(objectives))
    assert record["best"]["hyperparameters"]["lr"] == pytest.approx(record["best"]["objective"])
    assert len(rehearsal.platform.tuning_jobs) == 1
    assert json.loads((tmp_path / "study" / "tuning.json").read_text()) == record
    assert tune(engine, tmp_path / "study", spec, study) == record  # found again, not begun again
    fixed = spec.hyperparameters
    assert best_hyperparameters(tmp_path / "study") == {**fixed, **record["best"]["hyperparameters"]}
    assert spent(tmp_path / "study").jobs == 4
    assert cleanup("study", lambda region: cloud) == []


def test_a_grid_runs_and_is_priced_by_its_points(
    engine: SageMakerEngine, cloud: Cloud, spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = SCRIPT.replace("float(values['lr'])", "len(sorted(values))")
    monkeypatch.setattr(container, "_TRAIN", script)
    space = {"lr": CategoricalParameter([0.1, 0.2]), "batch_size": CategoricalParameter([32, 64])}
    study = AmtStudy(space, minimize="loss", strategy="grid", max_jobs=1, max_parallel_jobs=2)
    bound = replace(engine.settings, max_price=3.9 * (price(engine.settings.instance_type, 1.0) or 0))
    hour = replace(spec, limits=replace(spec.limits, max_run_seconds=3600))
    with pytest.raises(ConfigurationError, match="above max_price"):
        tune(SageMakerEngine(bound, cloud), tmp_path / "dear", hour, study)
    record = tune(engine, tmp_path / "study", spec, study)
    points = {tuple(trial["hyperparameters"][key] for key in space) for trial in record["trials"]}
    assert points == {("0.1", "32"), ("0.1", "64"), ("0.2", "32"), ("0.2", "64")}


def test_a_grid_of_numbers_is_refused_by_name(engine: SageMakerEngine, spec: JobSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lists of values only; give one for lr, epochs"):
        tune(engine, tmp_path / "study", spec, replace(ONE_TRIAL, strategy="grid"))


def test_a_study_is_not_taken_for_another_that_is_asked_for_under_its_name(
    engine: SageMakerEngine, spec: JobSpec, rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_TRAIN", SCRIPT)
    begin(engine, tmp_path / "study", replace(spec, environment={"TOKEN": "secret"}), ONE_TRIAL, Watcher())
    assert "secret" not in (tmp_path / "study" / "sagemaker.json").read_text()
    wider = replace(ONE_TRIAL, space={**SPACE, "lr": ContinuousParameter(0.001, 0.5, "Logarithmic")})
    with pytest.raises(ConfigurationError, match=r"MaxValue was '0\.1' and is '0\.5'"):
        begin(engine, tmp_path / "study", spec, wider, Watcher())
    assert len(rehearsal.platform.tuning_jobs) == 1


# In the recorder's place: what it would leave, and whose it is.
RECORDED = f"""{SCRIPT}
import shutil
recording = base / "checkpoints" / os.environ["TRAINING_JOB_NAME"] / "debug-output"
shutil.copytree(os.environ["RECORDING"], recording)
(recording / "whose.txt").write_text(os.environ["TRAINING_JOB_NAME"])
"""


def test_trials_are_recorded_each_for_itself_and_judged(
    engine: SageMakerEngine,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = RecordingWriter(tmp_path / "recording")
    writer.fact("nonfinite", 3, ModeKeys.TRAIN, name="fc_output_0", what="output", module="fc")
    writer.close()
    monkeypatch.setattr(container, "_TRAIN", RECORDED)
    debugged = replace(
        spec,
        debugger=debugger_configuration(rules={"NotANumber": {}}),
        environment={"RECORDING": str(tmp_path / "recording")},
    )
    study, said = AmtStudy(SPACE, minimize="loss", max_jobs=2, max_parallel_jobs=2), list[str]()
    record = tune(engine, tmp_path / "study", debugged, study, Watcher(say=said.append))
    assert [trial["rules"]["NotANumber"] for trial in record["trials"]] == ["IssuesFound"] * 2
    for name in (trial["training_job"] for trial in record["trials"]):
        assert (trial_folder(tmp_path / "study", name) / "debug-output" / "whose.txt").read_text() == name
        assert any(line.startswith(f"{name}: NotANumber: ") for line in said)
    assert spent(tmp_path / "study").jobs == 2


@pytest.mark.parametrize(("spot", "kept"), [(False, False), (True, True)])
def test_trials_that_might_share_checkpoints_keep_them_only_where_they_are_needed(
    settings: SageMakerSettings,
    cloud: Cloud,
    rehearsal: Rehearsal,
    spec: JobSpec,
    tmp_path: Path,
    spot: bool,
    kept: bool,
) -> None:
    engine = SageMakerEngine(replace(settings, spot=spot), cloud)
    begin(engine, tmp_path / "study", spec, AmtStudy(SPACE, minimize="loss"), Watcher())
    (asked,) = rehearsal.platform.tuning_jobs.values()
    assert ("CheckpointConfig" in asked.request["TrainingJobDefinition"]) == kept
    stop(engine, tmp_path / "study")


WAITING = f"""{SCRIPT}
import threading
threading.Event().wait()
"""


def test_a_study_is_met_again_by_a_later_process_stopped_and_its_trials_read_back(
    engine: SageMakerEngine,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(container, "_TRAIN", WAITING)
    folder = tmp_path / "study"
    name = begin(engine, folder, spec, ONE_TRIAL, Watcher())
    assert state_of(JobFolder(folder))["status"] == "InProgress"
    submitted.bring_log(folder)
    assert JobFolder(folder).logs.read_text().startswith(f"{name}: InProgress")
    submitted.stop(folder)
    record = submitted.wait(folder, Watcher())
    assert (record["status"], "is Stopped" in record["failure"]) == ("Stopped", True)
    assert _job_row(JobFolder(folder))["kind"] == "study"
    submitted.stop(folder)  # once more is nothing
    assert submitted.wait(folder, Watcher()) == record


def test_a_kill_at_any_call_of_a_study_leaves_nothing_after_cleanup(
    engine: SageMakerEngine,
    cloud: Cloud,
    rehearsal: Rehearsal,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(container, "_TRAIN", WAITING)
    seen = set[str]()
    for number in range(1, 40):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            done = killing(cloud, number, patch)
            tune(engine, tmp_path / str(number), replace(spec, name=f"s{number}"), ONE_TRIAL)
        seen.add(done[-1])
        if done[-1] == "DescribeHyperParameterTuningJob":
            break
    assert {"PutObject", "CreateHyperParameterTuningJob"} <= seen
    for ledger in ledgers():
        cleanup(ledger.name, lambda region: cloud)
    for job in rehearsal.platform.jobs.values():
        job.join(30)
    assert {asked.status for asked in rehearsal.platform.tuning_jobs.values()} <= {"Stopping", "Stopped"}
    assert {job.status for job in rehearsal.platform.jobs.values()} <= {"Stopped"}


FAILS = f"""{SCRIPT}
(base / "output" / "failure").write_text("no such flag: --lr")
raise SystemExit(1)
"""


def test_a_study_without_a_result_tells_why_its_trials_failed(
    engine: SageMakerEngine,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(container, "_TRAIN", FAILS)
    with pytest.raises(JobError, match="no such flag: --lr"):
        tune(engine, tmp_path / "s", spec, ONE_TRIAL)


def test_an_interrupt_stops_a_study_in_aws(
    engine: SageMakerEngine,
    rehearsal: Rehearsal,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(container, "_TRAIN", WAITING)
    with pytest.raises(KeyboardInterrupt):
        tune(engine, tmp_path / "study", spec, ONE_TRIAL, sleep=interrupted)
    (asked,) = rehearsal.platform.tuning_jobs.values()
    assert asked.status in ("Stopping", "Stopped")


def test_a_study_that_may_cost_too_much_is_not_begun(
    settings: SageMakerSettings, cloud: Cloud, rehearsal: Rehearsal, spec: JobSpec, tmp_path: Path
) -> None:
    engine = SageMakerEngine(replace(settings, max_price=0.1), cloud)
    with pytest.raises(ConfigurationError, match="above max_price"):
        tune(engine, tmp_path / "study", spec, AmtStudy(SPACE, minimize="loss", max_jobs=10))
    assert rehearsal.platform.tuning_jobs == {}


def test_every_mistake_is_listed_at_once(engine: SageMakerEngine, spec: JobSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        tune(engine, tmp_path / "s", spec, AmtStudy({"momentum": SPACE["lr"]}, minimize="f1"))
    assert len(caught.value.mistakes) == 2
