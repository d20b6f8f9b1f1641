from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finepoint.engines.local import Watcher, execute, run_job
from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.records import JobFolder
from finepoint.engines.spec import JobSpec
from finepoint.engines.trials import OUTPUT, study_job
from finepoint.errors import ConfigurationError, JobError
from finepoint.models.runtimes import cores
from finepoint.tuning.parameters import CategoricalParameter, ContinuousParameter
from finepoint.tuning.study import StudySpec

pytestmark = pytest.mark.slow  # each study is a process of its own, and so is each trial
SPACE = {"rate": ContinuousParameter(-1.0, 1.0), "kind": CategoricalParameter((1, 2))}
METRIC = MetricDefinition("valid_loss", r"valid loss: ([0-9.]+)")
SCRIPT = """
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
parser.add_argument("--kind", choices=["1", "2"])
args = parser.parse_args()
print(json.dumps([os.environ["SM_HPS"], os.environ.get("OMP_NUM_THREADS"), os.environ["SM_NUM_CPUS"]]))
for epoch in range(3):
    print(f"valid loss: {args.rate ** 2 + 1 / (epoch + 1):.6f}", flush=True)
open(os.environ["SM_MODEL_DIR"] + "/x", "w").write(str(args.rate))
"""


def job(tmp_path: Path, script: str = SCRIPT, metric: MetricDefinition = METRIC, **study: Any) -> JobSpec:
    path = tmp_path / "train.py"
    path.write_text(script)
    trial = JobSpec("trial", entry_point="train.py", source_dir=str(path), metric_definitions=(metric,))
    spec = StudySpec(SPACE, objective=metric.name, goal="minimize", **{"max_jobs": 4, **study})
    return study_job("s", spec, trial)


def notes_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["text"] for event in events if event["event"] == "note"]


def trials_of(folder: Path) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = json.loads((folder / OUTPUT).read_text())["tuning"]["trials"]
    return trials


def test_trials_are_jobs_that_run_side_by_side_and_share_the_cores(tmp_path: Path) -> None:
    run_job(tmp_path / "s", job(tmp_path, max_parallel_jobs=2))
    record = json.loads((tmp_path / "s" / OUTPUT).read_text())
    trials = record["tuning"]["trials"]
    assert [trial["status"] for trial in trials] == ["completed"] * 4
    best = min(trials, key=lambda trial: trial["value"])
    assert record["best_job"] == f"s-{best['number']:03d}"
    for trial in trials:
        folder = JobFolder(tmp_path / "s" / "trials" / f"s-{trial['number']:03d}")
        x = trial["hyperparameters"]["rate"]
        assert trial["value"] == pytest.approx(x**2 + 1 / 3, abs=1e-6)  # the latest of the values counts
        hps, threads, cpus = json.loads(folder.logs.read_text().splitlines()[0])
        # as SageMaker's tuning does, what is one of several arrives as a string
        assert json.loads(hps) == {"rate": x, "kind": str(trial["hyperparameters"]["kind"])}
        assert threads == cpus == str(max(1, cores() // 2))
        assert folder.read()["status"] == "Completed"
        assert folder.model.is_file()


def test_the_secrets_of_trials_reach_them_and_are_in_no_record(tmp_path: Path) -> None:
    script = "import os\nprint('valid loss:', 7 if os.environ['API_KEY'][::-1] == '0-neddih' else 8)\n"
    (tmp_path / "train.py").write_text(script)
    where = {"source_dir": str(tmp_path / "train.py"), "environment": {"API_KEY": "hidden-0"}}
    trial = JobSpec("trial", entry_point="train.py", metric_definitions=(METRIC,), **where)
    study = StudySpec(SPACE, "random", METRIC.name, max_jobs=1, goal="minimize")
    run_job(tmp_path / "s", study_job("s", study, trial))
    assert [one["value"] for one in trials_of(tmp_path / "s")] == [7]
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.name for path in files if b"hidden-0" in path.read_bytes()} == {"secrets.json"}


def test_each_trial_keeps_its_checkpoints_in_a_place_of_its_own(tmp_path: Path) -> None:
    script = """
import os
folder = os.environ["SAGEMAKER_BASE_DIR"] + "/checkpoints"
print(f"valid loss: {len(os.listdir(folder))}")
open(folder + "/last", "w").close()
"""
    (tmp_path / "train.py").write_text(script)
    where = {"source_dir": str(tmp_path / "train.py"), "checkpoint_location": str(tmp_path / "kept")}
    trial = JobSpec("trial", entry_point="train.py", metric_definitions=(METRIC,), **where)
    study = StudySpec(SPACE, "random", METRIC.name, max_jobs=2, goal="minimize")
    run_job(tmp_path / "s", study_job("s", study, trial))
    assert [one["value"] for one in trials_of(tmp_path / "s")] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["s-000", "s-001"]


def test_early_stopping_ends_a_trial_that_is_worse_than_the_median(tmp_path: Path) -> None:
    # the first trial prints low values; later ones high values, and then wait for the end that early stopping brings
    script = """
import os, sys, threading
first = os.environ["TRAINING_JOB_NAME"].endswith("000")
for _ in range(3):
    print("valid loss:", "0.1" if first else "0.9", flush=True)
if not first: threading.Event().wait()
"""
    run_job(tmp_path / "s", job(tmp_path, script, early_stopping="auto", max_jobs=2))
    trials = trials_of(tmp_path / "s")
    assert [trial["status"] for trial in trials] == ["completed", "stopped"]
    assert trials[1]["reason"] == "worse than the median of the earlier trials at the same point"
    assert JobFolder(tmp_path / "s" / "trials" / "s-001").read()["failure"].startswith("early stopping")


def test_a_metric_printed_once_cannot_be_stopped_early_and_the_test_set_is_warned_of(
    tmp_path: Path,
) -> None:
    events: list[dict[str, Any]] = []
    worse = "'0.5' if os.environ['TRAINING_JOB_NAME'].endswith('0') else '0.9'"
    script = f"import os, pathlib\nprint('Test set: valid loss:', {worse}, flush=True)\n"
    script += "pathlib.Path(os.environ['SM_MODEL_DIR'], 'm').touch()"
    run_job(tmp_path / "s", job(tmp_path, script, early_stopping="auto", max_jobs=2), Watcher(on_event=events.append))
    test_set, once = notes_of(events)
    assert "named for the test set" in test_set
    assert "can never stop a trial" in once
    assert [(trial["status"], trial["value"]) for trial in trials_of(tmp_path / "s")] == [
        ("completed", 0.5),
        ("completed", 0.9),
    ]


def test_a_regex_that_matches_nothing_ends_the_study_after_the_first_trial(tmp_path: Path) -> None:
    wrong = MetricDefinition("valid_loss", r"valid lost: ([0-9.]+)")
    events: list[dict[str, Any]] = []
    with pytest.raises(JobError, match=r"these come nearest:\n *valid loss: "):
        run_job(tmp_path / "s", job(tmp_path, metric=wrong), Watcher(on_event=events.append))
    assert notes_of(events) == []  # the error has it all
    assert [path.name for path in (tmp_path / "s" / "trials").iterdir()] == ["s-000"]


def test_a_trial_that_fails_is_tried_once_more_and_its_reason_kept(tmp_path: Path) -> None:
    script = f"import os\nif os.environ['TRAINING_JOB_NAME'] == 's-000': raise OSError('a hiccup')\n{SCRIPT}"
    run_job(tmp_path / "s", job(tmp_path, script, max_jobs=2))
    assert [(trial["status"], trial["attempts"]) for trial in trials_of(tmp_path / "s")] == [
        ("completed", 2),
        ("completed", 1),
    ]
    assert "a hiccup" in JobFolder(tmp_path / "s" / "trials" / "s-000").read()["failure"]


_KILLED = """
import json, sys
from pathlib import Path
from finepoint.engines.local import run_job
from finepoint.engines.spec import JobSpec
run_job(Path(sys.argv[1]), JobSpec.from_json(json.loads(sys.argv[2])))
"""


def test_a_study_that_was_killed_goes_on_and_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    script = f"""
import os, threading
if os.environ["TRAINING_JOB_NAME"] == "s-001":
    with open({str(pipe)!r}, "w"): pass
    threading.Event().wait()
{SCRIPT}"""
    spec = job(tmp_path, script)
    os.mkfifo(pipe)
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path / "s"), json.dumps(spec.to_json())])
    with pipe.open():  # opens when the second trial is under way
        process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / "train.py").write_text(SCRIPT)
    run_job(tmp_path / "s", spec)
    run_job(tmp_path / "u", spec)

    def essence(folder: Path) -> list[tuple[Any, ...]]:
        return [(trial["status"], trial["hyperparameters"], trial["value"]) for trial in trials_of(folder)]

    assert essence(tmp_path / "s") == essence(tmp_path / "u")
    assert [trial["attempts"] for trial in trials_of(tmp_path / "s")] == [1, 2, 1, 1]


def test_stopping_a_study_stops_its_trials(tmp_path: Path) -> None:
    script = "import threading\nprint('valid loss: 0.5', flush=True)\nthreading.Event().wait()"
    watcher = Watcher()

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "study" and event["state"]["trials"] and supervisors:
            supervisors.pop().stop("enough")  # once: a second word kills

    supervisors: list[Any] = []
    watcher.on_start = supervisors.append
    watcher.on_event = on_event
    result = execute(tmp_path / "s", job(tmp_path, script + "\n"), watcher)
    assert result.status == "Stopped"
    assert JobFolder(tmp_path / "s" / "trials" / "s-000").read()["status"] == "Stopped"


def test_what_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    trial = JobSpec("t", entry_point="train.py", source_dir=str(tmp_path), hyperparameters={"rate": 1})
    with pytest.raises(ConfigurationError, match="both fixed and searched") as caught:
        study_job("s", StudySpec(SPACE, objective="nix", goal="maximize"), trial)
    assert "no metric definition" in str(caught.value)
