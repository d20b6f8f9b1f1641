"""What is left of a run decides what is done again. No job runs here: the steps' files are made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock
from tests.conftest import write_images

from finepoint.cli import run_command
from finepoint.data.checking import check_images
from finepoint.data.finding import find_images
from finepoint.errors import ConfigurationError, InputError
from finepoint.runs.folder import RunFolder, create_or_open, list_runs
from finepoint.runs.listener import Listener
from finepoint.runs.options import RunOptions
from finepoint.runs.resuming import resume
from finepoint.runs.steps import KINDS, outputs
from finepoint.runs.workflow import evaluate


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """A run of which every step is done."""
    images = write_images(tmp_path / "images", 6)
    folder = create_or_open(tmp_path / "runs", "first", str(images))
    for path in [path for paths in outputs(folder).values() for path in paths]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    check_images(find_images(images)).save(folder.data)
    folder.write(
        {
            "kind": "run",
            "status": "completed",
            "command": "finepoint run images",
            "started_at": "",
            "finished_at": "",
            "options": RunOptions(path=str(images)).to_json(),
            "steps": {name: {"status": "done", "seconds": 1.0} for name in KINDS["run"]},
            "model": {"path": "model.tar.gz", "sha256": "", "bytes": 2},
        }
    )
    return folder


def steps_left(folder: RunFolder) -> list[str]:
    resume(folder, "run", RunOptions.from_json(folder.read()["options"]), Listener())
    return [name for name in KINDS["run"] if name not in folder.read()["steps"]]


def test_a_finished_run_has_nothing_left_to_do(finished: RunFolder) -> None:
    assert steps_left(finished) == []


@pytest.mark.parametrize("step", ["tune", "train", "evaluate", "package", "report"])
def test_a_step_whose_file_is_gone_or_damaged_is_done_again_with_what_follows(finished: RunFolder, step: str) -> None:
    path = outputs(finished)[step][0]
    path.write_text("{") if path.suffix == ".json" else path.unlink()
    assert steps_left(finished) == KINDS["run"][KINDS["run"].index(step) :]


def test_a_packed_model_that_was_cut_off_is_packed_again(finished: RunFolder) -> None:
    finished.model.write_text("")
    assert steps_left(finished) == ["package", "report"]


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
@pytest.mark.parametrize("name", ["run.json", "data.json"])
def test_what_all_else_was_made_from_cannot_be_made_up(finished: RunFolder, name: str, content: str | None) -> None:
    options = RunOptions.from_json(finished.read()["options"])
    path = finished.path / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match="to begin anew, or give another --run"):
        assert finished.exists()
        resume(finished, "run", options, Listener())


def test_a_damaged_run_does_not_hide_the_others(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = create_or_open(tmp_path / "runs", "other", "x")
    (other.path / "run.json").write_text("[]")
    assert len(list_runs(tmp_path / "runs")) == 2
    assert run_command(["runs", "--runs-dir", str(tmp_path / "runs"), "--json"]) == 0
    statuses = {row["run"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert statuses == {"first": "completed", "other": "damaged"}


def test_a_run_that_is_worked_on_is_not_evaluated_beside_it(finished: RunFolder) -> None:
    with FileLock(finished.path / ".lock"), pytest.raises(ConfigurationError, match="another process"):
        evaluate(finished.path)
    assert "evaluate" in finished.read()["steps"]


def test_a_damaged_summary_or_ledger_is_named(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", str(finished.path)]) == 2
    assert "summary.json is damaged" in capsys.readouterr().err
    (finished.evaluation / "ledger.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError, match=r"ledger\.jsonl is damaged"):
        finished.readings()


def test_a_folder_that_cannot_be_made_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in (None, "first"):
        with pytest.raises(InputError, match="--runs-dir"):
            create_or_open(tmp_path / "file", name, "photos")


def test_settings_may_be_mended_until_something_was_learned_from_them(finished: RunFolder) -> None:
    wanted = RunOptions(path=finished.read()["options"]["path"], backbone="resnet18")
    (finished.tuning / "checkpoints").mkdir()
    (finished.tuning / "checkpoints" / "study.db").touch()
    with pytest.raises(ConfigurationError, match="another backbone"):
        resume(finished, "run", wanted, Listener())
    (finished.tuning / "checkpoints" / "study.db").unlink()
    assert resume(finished, "run", wanted, Listener()) == wanted
    assert finished.read()["steps"] == {}


def test_what_was_trained_before_it_was_tuned_is_trained_again(finished: RunFolder) -> None:
    record = finished.read()
    del record["steps"]["tune"]
    finished.write({**record, "kind": "train"})
    assert steps_left(finished) == ["tune", "train", "evaluate", "package", "report"]
