from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.acceptance.conftest import COMMAND, Finepoint, runs_of, value_of
from tests.engines.conftest import SCRIPTS

pytestmark = pytest.mark.slow
WAITS = """
import os, sys, threading
print("begun", flush=True)
if os.path.exists("/opt/ml/model"): open("/opt/ml/model/half", "w").close()
threading.Event().wait()
"""


def test_a_script_is_trained_and_its_job_is_listed_and_removed(finepoint: Finepoint, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a\n")
    script = ["--entry-point", "train.sh", "--source-dir", SCRIPTS / "shell", "--hp", "greeting=hello"]
    row = value_of(finepoint("train", *script, "--channel", f"train={tmp_path}", "--run", "shell-job", "--json"))
    assert (row["status"], row["exit_code"]) == ("Completed", 0)
    assert Path(row["model"]).is_file()
    assert "greeting: hello" in finepoint("logs", "shell-job").stdout
    listed = {run["run"]: run for run in value_of(finepoint("runs", "--json"))}
    assert listed["shell-job"]["status"] == "completed"
    assert "shell-job" in finepoint("runs").stdout
    finepoint("rm", "shell-job")
    assert not (runs_of(finepoint) / "shell-job").exists()
    assert (tmp_path / "lines.txt").exists()


def test_a_detached_job_is_followed_stopped_and_waited_for(finepoint: Finepoint, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(WAITS)
    row = value_of(finepoint("train", "--entry-point", tmp_path / "train.py", "--run", "back", "--detach", "--json"))
    assert row["status"] == "InProgress"
    follower = subprocess.Popen(
        [*COMMAND, "logs", "-f", "back"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FINEPOINT_RUNS": str(runs_of(finepoint))},
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "begun\n"
    assert {run["run"]: run["status"] for run in value_of(finepoint("runs", "--json"))}["back"] == "running"
    assert "is running" in finepoint("rm", "back", code=2).stderr
    assert (
        "is running"
        in finepoint("train", "--entry-point", tmp_path / "train.py", "--run", "back", "--detach", code=2).stderr
    )
    stopped = value_of(finepoint("stop", "back", "--json"))
    assert (stopped["status"], stopped["failure"]) == ("Stopped", "stopped on request")
    follower.communicate(timeout=30)
    assert follower.returncode == 0
    finepoint("wait", "back", code=1)
    assert "is not running" in finepoint("stop", "back", code=2).stderr


def test_a_script_that_fails_is_told_without_a_traceback_of_ours(finepoint: Finepoint, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import argparse; argparse.ArgumentParser().parse_args()")
    done = finepoint("train", "--entry-point", tmp_path / "train.py", "--hp", "lr=1", "--run", "fails", code=1)
    assert done.stderr.count("unrecognized arguments: --lr 1") == 1
    assert "exit code 2" in done.stderr
    waited = finepoint("wait", "fails", code=1).stdout
    assert waited.startswith("Job fails: Failed (exit code 2). ")
    assert "unrecognized arguments: --lr 1\n" in waited


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either a folder of images, or --entry-point"),
        (["--entry-point", "nix.py"], "does not exist"),
        (["--entry-point", "train.sh", "--source-dir", SCRIPTS / "shell", "--lr", "1"], "--hp KEY=VALUE"),
        (
            ["--entry-point", "nix.sh", "--source-dir", SCRIPTS / "shell", "--hp", "lr", "--channel", "a=/nix/a"],
            "3 settings are wrong",
        ),
    ],
)
def test_mistakes_of_a_script_job_are_explained(finepoint: Finepoint, arguments: list[object], words: str) -> None:
    assert words in finepoint("train", *arguments, code=2).stderr


TUNED = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
args = parser.parse_args()
print(f"valid loss: {args.rate ** 2:.6f}")
open(os.environ["SM_MODEL_DIR"] + "/rate", "w").write(str(args.rate))
"""


def test_a_script_is_tuned_and_trained_with_the_best_hyperparameters(finepoint: Finepoint, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TUNED)
    search = ["--range", "rate=0.1:0.9", "--max-jobs", 3, "--metric-definition", "loss=valid loss: ([0-9.]+)"]
    search_loss = [*search, "--minimize", "loss", "--run", "tuned"]
    study = value_of(finepoint("tune", "--entry-point", script, *search_loss, "--json"))
    values = [trial["value"] for trial in study["tuning"]["trials"]]
    assert len(values) == 3
    best = study["best_hyperparameters"]["rate"]
    assert best**2 == pytest.approx(min(values), abs=1e-6)
    row = value_of(finepoint("train", "--entry-point", script, "--best-of", "tuned", "--run", "again", "--json"))
    assert float(Path(row["path"], "model", "rate").read_text()) == best
    assert "valid loss" in finepoint("logs", f"tuned/trials/{study['best_job']}").stdout
    assert "--minimize NAME" in finepoint("tune", "--entry-point", script, *search, code=2).stderr


SERVES = """
import os

def model_fn(folder):
    return float(open(os.path.join(folder, "rate")).read())

def predict_fn(data, model):
    return [model * value for value in data]

def output_fn(prediction, accept):
    return str(prediction)

def input_fn(body, content_type):
    import json
    return json.loads(body)
"""


def test_a_jobs_model_is_served_by_a_script(finepoint: Finepoint, tmp_path: Path) -> None:
    import httpx

    (tmp_path / "train.py").write_text(TUNED)
    (tmp_path / "serve.py").write_text(SERVES)
    finepoint("train", "--entry-point", tmp_path / "train.py", "--hp", "rate=0.5", "--run", "served")
    given = ["--name", "scripted", "--entry-point", tmp_path / "serve.py", "--json"]
    endpoint = value_of(finepoint("deploy", "served", *given))
    try:
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(f"{endpoint['url']}/invocations", json=[2, 4], headers=headers, trust_env=False)
        assert (answer.status_code, answer.text) == (200, "[1.0, 2.0]")
        # The command prints what the handler says, whatever it is.
        (tmp_path / "image.json").write_text("[2]")
        asked = finepoint("query", "scripted", tmp_path / "image.json", "--json")
        assert value_of(asked) == [{"path": str(tmp_path / "image.json"), "answer": [1.0]}]
        assert finepoint("query", "scripted", tmp_path / "image.json").stdout.endswith("[1.0]\n")
        refused = finepoint("query", "scripted", tmp_path / "image.json", "--out", tmp_path / "a.csv", code=2)
        assert "no prediction as finepoint writes it: [1.0]" in refused.stderr
    finally:
        finepoint("undeploy", "scripted")
    (tmp_path / "requirements.txt").write_text("nix-is-not-there==1\n")
    beside = ["--name", "asks", "--entry-point", "serve.py", "--source-dir", tmp_path]
    assert (
        "not installed beside finepoint: nix-is-not-there==1" in finepoint("deploy", "served", *beside, code=2).stderr
    )
    finepoint("rm", "served")
    assert "no run 'served'" in finepoint("deploy", "served", code=2).stderr
