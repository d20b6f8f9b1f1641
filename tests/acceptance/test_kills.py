"""kill -9 at any moment: the same command finishes, and ends like an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from tests.acceptance.conftest import COMMAND
from tests.conftest import write_images

from finepoint.runs.summary import without_varying

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills")
    for number, (split, count) in enumerate({"train": 150, "valid": 20, "test": 20}.items()):
        write_images(root / split, count, seed=number)
    return root


def start(images: Path, runs: Path, cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "FINEPOINT_RUNS": str(runs), "FINEPOINT_CACHE": str(cache)}
    command = [*COMMAND, "run", str(images), "--run", "r", "--max-jobs", "8"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:  # type: ignore[type-arg]
    runs = tmp_path_factory.mktemp("undisturbed")
    finish(start(images, runs, Path(os.environ["FINEPOINT_CACHE"])))
    return json.loads((runs / "r" / "summary.json").read_text())


# A line that is printed when the moment has come.
MOMENTS = {
    "features": "images embedded",
    "third trial": "trial 1:",
    "training": "Training the best",
    "evaluation": "Evaluating",
}


@pytest.mark.parametrize(
    ("moment", "whom"),
    [
        *((moment, "run and job") for moment in MOMENTS),
        ("features", "run alone"),
        ("third trial", "job alone"),
    ],
)
def test_the_repeat_ends_like_an_undisturbed_run(
    images: Path,
    undisturbed: dict,  # type: ignore[type-arg]
    own_cache: Path,
    tmp_path: Path,
    moment: str,
    whom: str,
) -> None:
    process = start(images, tmp_path, own_cache)
    assert process.stderr is not None
    for line in process.stderr:
        if MOMENTS[moment] in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    victims = ([process.pid] if whom != "job alone" else []) + [child.pid for child in children if whom != "run alone"]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    if whom == "job alone":
        assert "killed by SIGKILL" in errors
        assert process.returncode == 1
    finish(start(images, tmp_path, own_cache))
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    summary["test"]["times_read"] = 1  # an evaluation that was killed has read the test part, and is counted
    assert without_varying(summary) == without_varying(undisturbed)
