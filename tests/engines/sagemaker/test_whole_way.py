"""The whole way in AWS, as a user goes it, against the stand-in: tune, train, evaluate, deploy, query, undeploy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import boto3
import pytest
from tests.acceptance.conftest import COMMAND

from finepoint.engines.rehearsal.server import Rehearsal

pytestmark = pytest.mark.slow


def finepoint(*arguments: object, code: int = 0) -> str:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=540)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_a_run_goes_to_aws_and_back(
    rehearsal: Rehearsal, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPOINT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FINEPOINT_STATE", str(tmp_path / "state"))
    role = "arn:aws:iam::123456789012:role/finepoint"
    (tmp_path / "finepoint.toml").write_text(
        f'[sagemaker]\nrole = "{role}"\nbucket = "photos"\npoll_seconds = 0.3\nmax_price = 10.0\n'
    )
    monkeypatch.chdir(tmp_path)
    cloud = ("--engine", "sagemaker")
    summary = json.loads(finepoint("run", colours, "--run", "first", "--max-jobs", 2, *cloud, "--json"))
    assert summary["tuning"]["trials"]
    assert summary["test"]["accuracy"] > 0.5
    jobs = boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    assert sorted(job["TrainingJobStatus"] for job in jobs) == ["Completed", "Completed"]
    assert json.loads(finepoint("doctor", *cloud, "--json"))[0]["severity"] == "info"
    finepoint("deploy", "first", "--name", "colours", *cloud)
    listed = json.loads(finepoint("endpoints", *cloud, "--json"))
    assert [(entry["name"], entry["status"], entry["run"]) for entry in listed] == [("colours", "InService", "colours")]
    image = next((colours / "test" / "red").iterdir())
    answered = json.loads(finepoint("query", "colours", image, *cloud, "--json"))[0]
    predicted = json.loads(finepoint("predict", "first", image, "--json"))
    local = predicted[0] if isinstance(predicted, list) else predicted["predictions"][0]
    assert answered["label"] == local["label"]
    assert answered["probability"] == pytest.approx(local["probability"], abs=1e-3)
    (tmp_path / "no.jpg").write_bytes(b"no image")
    finepoint("query", "colours", tmp_path / "no.jpg", *cloud, code=2)
    finepoint("undeploy", "colours", *cloud)
    assert json.loads(finepoint("endpoints", *cloud, "--json")) == []
    assert json.loads(finepoint("cleanup", "--json")) == []
    assert rehearsal.platform.models == rehearsal.platform.endpoint_configs == {}
    secrets = [path for path in tmp_path.rglob("*") if path.is_file() and b"SECRET_ACCESS" in path.read_bytes()]
    assert secrets == []
