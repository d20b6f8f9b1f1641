"""The same scripts under the official sagemaker-training toolkit and under our engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tests.engines.conftest import SCRIPTS

from finepoint.engines.local import execute
from finepoint.engines.spec import Channel, JobSpec, Resources

pytestmark = pytest.mark.slow
VERSION = "5.1.4"
ORACLES = Path(tempfile.gettempdir()) / "finepoint-oracles"
DOCUMENT = Path(__file__).parents[2] / "docs" / "script-mode.md"

# Variables that differ, each with its reason in docs/script-mode.md.
DIFFERENT = {"SM_MODULE_DIR", "SM_STUDIO_LOCAL_MODE", "PYTHONPATH"}
# Variables of the platform or the PyTorch container, which the bare toolkit does not set.
OURS = {"MASTER_ADDR", "MASTER_PORT", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "PYTHONUNBUFFERED"}

HYPERPARAMETERS: dict[str, Any] = {
    "flag": True,
    "off": False,
    "lr": 1e-05,
    "nothing": None,
    "augmentation": {"flip": 1, "crop": "a b"},
    "batch-size": 64,
    "h": 1,
    "words": 'it\'s; $(echo) "so"',
    "layers": [1, 2],
    "digits": "128",
    "é": "ü",
    "_tuning_objective_metric": "loss",
    "sagemaker_custom": 1,
}


@pytest.fixture(scope="session")
def toolkit() -> Path:
    """The official toolkit in an environment of its own, kept between runs of the tests."""
    folder = ORACLES / f"sagemaker-training-{VERSION}-{sys.version_info.major}{sys.version_info.minor}"
    ORACLES.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / ".ready").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True, symlinks=True)
            command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", f"sagemaker-training=={VERSION}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode != 0:
                pytest.skip(f"sagemaker-training {VERSION} cannot be installed here: {done.stderr.strip()[-200:]}")
            (folder / ".ready").touch()
    return folder / "bin"


def run_both(toolkit: Path, tmp_path: Path, entry_point: str, end: str) -> tuple[Path, int, Path, int]:
    """Run a script under both; return each one's folder and the exit code of the script."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    data = tmp_path / "data"
    data.mkdir()
    spec = JobSpec(
        "job-1",
        entry_point=entry_point,
        source_dir=str(SCRIPTS / "probe"),
        hyperparameters={**HYPERPARAMETERS, "end": end},
        channels={name: Channel(str(data)) for name in ("train", "Some-thing")},
    )
    result = execute(ours, spec)
    return ours, result.exit_code, theirs, run_theirs(toolkit, ours, theirs, entry_point)


def run_theirs(toolkit: Path, ours: Path, theirs: Path, entry_point: str) -> int:
    """Run a script under the toolkit on what a host of ours was given, and return the script's exit code."""
    for part in ("input", "model", "output/data", "code"):
        (theirs / part).mkdir(parents=True)
    shutil.copytree(ours / "input", theirs / "input", symlinks=True, dirs_exist_ok=True)
    path = theirs / "input" / "config" / "hyperparameters.json"
    platform = {"program": entry_point, "submit_directory": str(SCRIPTS / "probe"), "job_name": "job-1"}
    own = {f"sagemaker_{name}": json.dumps(value) for name, value in platform.items()}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "SAGEMAKER_"))}
    environment = {
        **kept,
        "PATH": f"{toolkit}{os.pathsep}{kept['PATH']}",
        "SAGEMAKER_BASE_DIR": str(theirs),
        "SM_STUDIO_LOCAL_MODE": "true",
        "TRAINING_JOB_NAME": "job-1",
    }
    done = subprocess.run(
        [str(toolkit / "train")], env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    failure = theirs / "output" / "failure"
    theirs_code = int(failure.read_text().split("ExitCode ")[1].split()[0]) if failure.is_file() else 0
    assert (done.returncode != 0) == (theirs_code != 0), done.stderr
    return theirs_code


def probed(folder: Path) -> dict[str, Any]:
    """Return what the probe saw, with its folder's name taken out."""
    text = (folder / "output" / "data" / "probe.json").read_text()
    seen: dict[str, Any] = json.loads(text.replace(str(folder), "BASE"))
    return seen


def told(seen: dict[str, Any]) -> dict[str, str]:
    """Return the variables that the container's side has set."""
    return {
        name: value
        for name, value in seen["environment"].items()
        if name.startswith(("SM_", "SAGEMAKER_", "TRAINING_", "MASTER_", "NCCL_", "GLOO_", "PYTHON"))
        or name == "CURRENT_HOST"
    }


def test_a_python_script_sees_the_same(toolkit: Path, tmp_path: Path) -> None:
    ours_folder, ours_code, theirs_folder, theirs_code = run_both(toolkit, tmp_path, "probe.py", "well")
    ours, theirs = probed(ours_folder), probed(theirs_folder)
    assert ours_code == theirs_code == 0
    for key in ("argv", "cwd", "path0", "imports_from_code", "stdin"):
        assert ours[key] == theirs[key], key
    for name in ("inputdataconfig", "resourceconfig"):
        assert ours["files"][name] == theirs["files"][name]
    kept = {
        name: text for name, text in theirs["files"]["hyperparameters"].items() if not name.startswith("sagemaker_")
    }
    assert kept | {"sagemaker_custom": "1"} == ours["files"]["hyperparameters"]

    mine, official = told(ours), told(theirs)
    assert set(mine) - set(official) == OURS - set(official)
    assert set(official) - set(mine) == {"SM_STUDIO_LOCAL_MODE"}
    whole = [json.loads(seen.pop("SM_TRAINING_ENV")) for seen in (mine, official)]
    assert {name for name in whole[0] if whole[0][name] != whole[1][name]} == {"module_dir"}
    assert whole[0].keys() == whole[1].keys()
    differing = {name for name in official if name in mine and mine[name] != official[name]}
    assert differing == DIFFERENT - {"SM_STUDIO_LOCAL_MODE"}
    folders = set(theirs["folders"]) - set(ours["folders"]), set(ours["folders"]) - set(theirs["folders"])
    assert folders == (set(), {"checkpoints"})


def test_each_of_several_hosts_sees_the_same(toolkit: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    spec = JobSpec(
        "job-1",
        entry_point="probe.py",
        source_dir=str(SCRIPTS / "probe"),
        hyperparameters=HYPERPARAMETERS,
        channels={"train": Channel(str(tmp_path / "data"))},
        resources=Resources(2),
    )
    assert execute(tmp_path / "ours", spec).exit_code == 0
    for host, folder in (("algo-1", tmp_path / "ours"), ("algo-2", tmp_path / "ours" / "hosts" / "algo-2")):
        assert run_theirs(toolkit, folder, tmp_path / host, "probe.py") == 0
        ours, theirs = probed(folder), probed(tmp_path / host)
        assert ours["argv"] == theirs["argv"]
        assert ours["files"]["resourceconfig"]["current_host"] == host
        assert ours["files"]["resourceconfig"]["hosts"] == ["algo-1", "algo-2"]
        mine, official = told(ours), told(theirs)
        assert (mine["SM_CURRENT_HOST"], json.loads(mine["SM_HOSTS"])) == (host, ["algo-1", "algo-2"])
        whole = [json.loads(seen.pop("SM_TRAINING_ENV")) for seen in (mine, official)]
        assert {name for name in whole[0] | whole[1] if whole[0].get(name) != whole[1].get(name)} == {"module_dir"}
        assert whole[0]["is_master"] == (host == "algo-1")
        assert set(mine) ^ set(official) == (OURS - set(official)) | {"SM_STUDIO_LOCAL_MODE"}
        differing = {name for name in official if name in mine and mine[name] != official[name]}
        assert differing == DIFFERENT - {"SM_STUDIO_LOCAL_MODE"}


def test_a_shell_script_gets_the_same_arguments(toolkit: Path, tmp_path: Path) -> None:
    ours, ours_code, theirs, theirs_code = run_both(toolkit, tmp_path, "probe.sh", "well")
    assert ours_code == theirs_code == 0
    texts = [(folder / "output" / "data" / "arguments.txt").read_text() for folder in (ours, theirs)]
    assert texts[0] == texts[1]
    places = [(folder / "output" / "data" / "pwd.txt").read_text().strip() for folder in (ours, theirs)]
    assert places == [f"{ours}/code", f"{theirs}/code"]


@pytest.mark.parametrize("end", ["exit3", "raise", "kill"])
def test_a_failure_leaves_the_same_exit_code_and_file(toolkit: Path, tmp_path: Path, end: str) -> None:
    ours, ours_code, theirs, theirs_code = run_both(toolkit, tmp_path, "probe.py", end)
    assert ours_code == theirs_code != 0
    heads = [(folder / "output" / "failure").read_text().splitlines()[:2] for folder in (ours, theirs)]
    assert heads[0] == heads[1]
    assert [(folder / "output" / "success").exists() for folder in (ours, theirs)] == [False, False]


def test_success_leaves_the_same_file(toolkit: Path, tmp_path: Path) -> None:
    ours, _, theirs, _ = run_both(toolkit, tmp_path, "probe.sh", "well")
    assert [(folder / "output" / "success").read_bytes() for folder in (ours, theirs)] == [b"", b""]


def test_every_difference_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert [name for name in sorted(DIFFERENT | OURS) if f"`{name}`" not in text] == []
