from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import write_images

import finepoint
from finepoint.errors import ConfigurationError
from finepoint.runs.options import RunOptions
from finepoint.runs.workflow import model_path


def test_every_mistake_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RunOptions(
            "photos", test_fraction=2, hyperparameters={"lr": -1}, strategy="nix", max_jobs=0, objective="valid_f1"
        )
    for words in (
        "test_fraction is 2",
        "lr is -1",
        "strategy 'nix'",
        "max_jobs is 0",
        "objective 'valid_f1' is not recorded",
    ):
        assert words in str(caught.value)


def test_a_setting_that_does_not_exist_is_a_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="epochs: no such setting"):
        finepoint.train(write_images(tmp_path / "images", 4), directory=tmp_path / "runs", epochs=4)
    assert not (tmp_path / "runs").exists()


def test_a_run_stands_for_its_model(tmp_path: Path) -> None:
    from finepoint.runs.folder import RunFolder

    run = finepoint.Run(RunFolder(tmp_path / "first"))
    run.folder.path.mkdir()
    (run.folder.path / "run.json").write_text("{}")
    run.model.touch()
    assert model_path(run) == run.model
