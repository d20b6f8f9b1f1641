"""The SDK's words on the SageMaker engine, against the stand-in: what is asked of AWS, and what comes home."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from tests.engines.sagemaker.test_endpoints import Echo

from finepoint import notebook as sagemaker
from finepoint.engines.rehearsal import container, hosting
from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.sagemaker import cloud as clouds
from finepoint.errors import ConfigurationError, JobError
from finepoint.notebook import session as sessions

# Before a test puts something quick in their place.
TOOLKIT_TRAIN, HOSTED = container._TRAIN, hosting.Hosted
ROLE = "arn:aws:iam::123456789012:role/finepoint"
# In the official toolkit's place; the loss is the learning rate.
QUICK = """
import json, os, pathlib, sys
base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
values = {k: json.loads(v) for k, v in json.loads((base / "input/config/hyperparameters.json").read_text()).items()}
print("loss=1.0;", sorted(os.listdir(base / "input/data/train")), flush=True)
print(f"loss={float(values['lr'])};", flush=True)
(base / "model" / "weights.txt").write_text(str(values["lr"]))
sys.exit(int(values.get("fails", 0)))
"""


@pytest.fixture(autouse=True)
def _cells(rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPOINT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FINEPOINT_ENGINE", "sagemaker")
    monkeypatch.setattr(sessions, "_made", [])
    monkeypatch.setattr(container, "_TRAIN", QUICK)
    monkeypatch.setattr(hosting, "Hosted", Echo)
    monkeypatch.chdir(tmp_path)
    toml = f'[sagemaker]\nrole = "{ROLE}"\nbucket = "photos"\npoll_seconds = 0.1\n\n'
    (tmp_path / "finepoint.toml").write_text(toml)
    for name, text in (("train.py", ""), ("inference.py", "def model_fn(folder): ..."), ("data/a.txt", "a")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)


def estimator(**more: object) -> sagemaker.PyTorch:
    return sagemaker.PyTorch(
        "train.py",
        role=sagemaker.get_execution_role(),
        framework_version="2.1.0",
        py_version="py310",
        instance_type="ml.c5.xlarge",
        hyperparameters={"lr": 0.25},
        metric_definitions=[{"Name": "loss", "Regex": "loss=(.*?);"}],
        **more,
    )


def test_a_job_runs_in_aws_with_what_the_cell_says(capsys: pytest.CaptureFixture[str]) -> None:
    session = sagemaker.Session()
    assert (session.default_bucket(), session.boto_region_name) == ("photos", "us-east-1")
    address = session.upload_data("data", key_prefix="sets/a")
    assert address == "s3://photos/sets/a"
    job = estimator(use_spot_instances=True, max_wait=900, max_run=600, volume_size=50, input_mode="FastFile")
    job.fit({"train": address})
    assert "loss=0.25;" in capsys.readouterr().out
    (name,) = [one["TrainingJobName"] for one in boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]]
    asked = boto3.client("sagemaker").describe_training_job(TrainingJobName=name)
    assert asked["AlgorithmSpecification"]["TrainingImage"].endswith("pytorch-training:2.1.0-cpu-py310")
    assert asked["ResourceConfig"] == {"InstanceType": "ml.c5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50}
    assert asked["StoppingCondition"] == {"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 900}
    assert asked["InputDataConfig"][0]["InputMode"] == "FastFile"
    assert job.latest_training_job is not None
    described = job.latest_training_job.describe()
    assert (described["TrainingJobStatus"], described["FinalMetricDataList"][0]["Value"]) == ("Completed", 0.25)
    assert "Completed" in job._repr_html_()
    job.logs()
    assert "loss=0.25;" in capsys.readouterr().out
    assert (Path(job.output_path) / described["TrainingJobName"] / "model" / "weights.txt").read_text() == "0.25"


def test_a_job_that_is_not_waited_for_is_found_again_and_its_failure_told() -> None:
    job = estimator()
    job.set_hyperparameters(fails=3)
    job.fit({"train": "data"}, wait=False, job_name="one")
    assert job.latest_training_job is not None
    assert job.latest_training_job.describe()["TrainingJobStatus"] == "InProgress"
    assert job.latest_job_debugger_artifacts_path().startswith("s3://photos/")
    again = sagemaker.PyTorch.attach("one")
    assert again.latest_training_job is not None
    with pytest.raises(JobError, match="one failed"):
        again.latest_training_job.wait()


@pytest.mark.parametrize("attached", [False, True])
def test_the_endpoint_of_an_estimator_has_its_versions_network_key_and_tags(
    rehearsal: Rehearsal, attached: bool
) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/1"
    job = estimator(subnets=["s-1"], security_group_ids=["g-1"], output_kms_key=key, tags=[{"Key": "a", "Value": "b"}])
    job.fit({"train": "data"}, job_name="one")
    (sagemaker.PyTorch.attach("one") if attached else job).deploy(
        1, "ml.c5.large", endpoint_name="cells", entry_point="inference.py"
    )
    (model,) = rehearsal.platform.models.values()
    (configuration,) = rehearsal.platform.endpoint_configs.values()
    assert model["VpcConfig"] == {"Subnets": ["s-1"], "SecurityGroupIds": ["g-1"]}
    assert model["PrimaryContainer"]["Image"].endswith("pytorch-inference:2.1.0-cpu-py310")
    assert {"Key": "a", "Value": "b"} in model["Tags"]
    assert configuration["KmsKeyId"] == key


def test_the_credentials_of_a_boto_session_are_those_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clouds, "_chosen", [])
    chosen = boto3.session.Session("own-key", "own-secret", region_name="eu-west-1")
    session = sagemaker.Session(chosen)
    assert session.boto_region_name == "eu-west-1"
    assert clouds.Cloud("us-east-1")._session.get_credentials().access_key == "own-key"
    sagemaker.Session()
    assert clouds.Cloud("us-east-1")._session.get_credentials().access_key != "own-key"


def test_a_study_is_amts_and_its_best_trial_is_served_and_asked(rehearsal: Rehearsal) -> None:
    tuner = sagemaker.HyperparameterTuner(
        estimator(),
        "loss",
        {"lr": sagemaker.ContinuousParameter(0.001, 0.1)},
        objective_type="Minimize",
        max_jobs=3,
        max_parallel_jobs=3,
        base_tuning_job_name="study",
    )
    tuner.fit({"train": "data"})
    rows = tuner.analytics().rows()
    best = min(rows, key=lambda row: row["FinalObjectiveValue"])
    assert len(rows) == 3
    assert tuner.best_training_job() == best["TrainingJobName"]
    assert '<progress value="3" max="3">' in tuner._repr_html_()
    found = tuner.best_estimator()
    assert json.loads(found.hyperparameters()["lr"]) == pytest.approx(best["lr"])
    model = sagemaker.PyTorchModel(
        found.model_data, ROLE, "inference.py", framework_version="2.1.0", py_version="py310"
    )
    predictor = model.deploy(1, "ml.c5.large", endpoint_name="cells")
    (asked,) = rehearsal.platform.models.values()
    assert asked["PrimaryContainer"]["Image"].endswith("pytorch-inference:2.1.0-cpu-py310")
    predictor.serializer = sagemaker.IdentitySerializer("image/jpeg")
    predictor.deserializer = sagemaker.StringDeserializer()
    assert predictor.predict(b"abc", initial_args={"ContentType": "image/jpeg"}) == "ABC"
    predictor.delete_endpoint()
    assert rehearsal.platform.endpoints == rehearsal.platform.models == {}


def test_a_model_in_s3_is_packed_with_its_script(tmp_path: Path) -> None:
    from tests.data.test_extracting import tar_bytes

    body = tar_bytes({"weights.txt": b"1"}, "w:gz")
    boto3.client("s3").upload_fileobj(io.BytesIO(body), "photos", "models/model.tar.gz")
    model = sagemaker.PyTorchModel("s3://photos/models/model.tar.gz", ROLE, "inference.py")
    assert model.repack(tmp_path / "packed.tar.gz").is_file()


def test_a_session_chooses_the_engine_and_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    session = sagemaker.Session(engine="local")
    assert session.default_bucket() == "finepoint-local"
    assert not sagemaker.PyTorch("train.py").sagemaker_session.in_cloud  # the last one that was made
    with pytest.raises(ConfigurationError, match="engine is 'elsewhere'"):
        sagemaker.Session(engine="elsewhere")
    with pytest.raises(ConfigurationError, match="volume_gib"):
        sagemaker.PyTorch("train.py", sagemaker_session=sagemaker.Session(engine="sagemaker"), volume_size=0).fit(
            "data"
        )
    assert sagemaker.Session(engine="sagemaker", max_price=3.0).settings().max_price == 3.0


EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow
def test_the_cells_of_the_example_run_in_aws(
    rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The official toolkits run the scripts and serve the model.
    monkeypatch.setattr(container, "_TRAIN", TOOLKIT_TRAIN)
    monkeypatch.setattr(hosting, "Hosted", HOSTED)
    notebook = json.loads((EXAMPLES / "reference_workflow.ipynb").read_text())
    text = "\n\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    for cell, changed in (
        ('SOURCE = "code"', f"SOURCE = {str(EXAMPLES / 'code')!r}"),
        # A container does not see this process's variables; images of 32 pixels are not worth a second thread.
        (
            "    instance_count=1,\n",
            '    instance_count=1,\n    environment={"TORCH_HOME": os.environ["TORCH_HOME"], '
            '"OMP_NUM_THREADS": "1"},\n',
        ),
        ("max_jobs=4", "max_jobs=2"),
    ):
        assert cell in text
        text = text.replace(cell, changed)
    own = {"FINEPOINT_ENGINE": "sagemaker", "FINEPOINT_RUNS": str(tmp_path / "runs")}
    own |= {"FINEPOINT_STATE": str(tmp_path / "state"), "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=tmp_path,
        env={**os.environ, **rehearsal.variables(), **own},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    platform = rehearsal.platform
    assert [study.status for study in platform.tuning_jobs.values()] == ["Completed"]
    assert [job.status for job in platform.jobs.values()] == ["Completed"] * 3
    assert platform.endpoints == platform.models == {}
    for rule in ("VanishingGradient", "Overfit", "PoorWeightInitialization"):
        statuses = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(f"{rule} ")]
        assert statuses and statuses[-1] in ("NoIssuesFound", "IssuesFound", "NotApplicable")
    assert next(iter((tmp_path / "runs").glob("*/rule-output/ProfilerReport/*/profiler-report.html"))).is_file()
    probabilities, deleted = done.stdout.splitlines()[-2:]
    assert sum(ast.literal_eval(probabilities.removeprefix("probabilities "))[0]) == pytest.approx(1)
    assert deleted.startswith("deleted ")
