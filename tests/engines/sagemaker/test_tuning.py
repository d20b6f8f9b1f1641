from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.rehearsal import container
from finepoint.engines.rehearsal.faults import Fault
from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.rehearsal.shapes import problems
from finepoint.engines.sagemaker.cleanup import cleanup
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.rates import spent
from finepoint.engines.sagemaker.requests import Places, training_request, tuning_request
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.training import SageMakerEngine
from finepoint.engines.sagemaker.tuning import AmtStudy, tune
from finepoint.engines.spec import Channel, JobSpec
from finepoint.errors import ConfigurationError
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


@pytest.mark.parametrize("strategy", ["bayesian", "random", "grid", "hyperband"])
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
    assert ranges["CategoricalParameterRanges"][0]["Values"] == ["64", "128"]


def test_a_study_runs_its_trials_and_reads_the_best_back(
    settings: SageMakerSettings,
    cloud: Cloud,
    rehearsal: Rehearsal,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(container, "_TRAIN", SCRIPT)
    rehearsal.faults.add(Fault("CreateHyperParameterTuningJob", "timeout"))
    engine = SageMakerEngine(settings, cloud)
    study = AmtStudy(SPACE, minimize="loss", max_jobs=4, max_parallel_jobs=2)
    record = tune(engine, tmp_path / "study", spec, study)
    objectives = [trial["objective"] for trial in record["trials"]]
    assert len(objectives) == 4
    assert record["best"]["objective"] == pytest.approx(min(objectives))
    assert record["best"]["hyperparameters"]["lr"] == pytest.approx(record["best"]["objective"])
    assert len(rehearsal.platform.tuning_jobs) == 1
    assert json.loads((tmp_path / "study" / "tuning.json").read_text()) == record
    assert tune(engine, tmp_path / "study", spec, study) == record  # found again, not begun again
    assert spent(tmp_path / "study").jobs == 4
    assert cleanup("study", lambda region: cloud) == []


def test_a_study_that_may_cost_too_much_is_not_begun(
    settings: SageMakerSettings, cloud: Cloud, rehearsal: Rehearsal, spec: JobSpec, tmp_path: Path
) -> None:
    engine = SageMakerEngine(replace(settings, max_price=0.1), cloud)
    with pytest.raises(ConfigurationError, match="above max_price"):
        tune(engine, tmp_path / "study", spec, AmtStudy(SPACE, minimize="loss", max_jobs=10))
    assert rehearsal.platform.tuning_jobs == {}


def test_every_mistake_is_listed_at_once(
    settings: SageMakerSettings, cloud: Cloud, spec: JobSpec, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        tune(SageMakerEngine(settings, cloud), tmp_path / "s", spec, AmtStudy({"momentum": SPACE["lr"]}, minimize="f1"))
    assert len(caught.value.mistakes) == 2
