"""Scripts that import smdebug run unchanged, with smdebug's names, steps and defaults; a real smdebug comes first."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import torch
from torch import nn

import finepoint  # noqa: F401 - importing it is what makes smdebug importable
from finepoint.debugger.compatibility.finder import CompatibilityFinder, provide_smdebug


def test_the_well_known_step_counts(tmp_path: Path) -> None:
    """53 training batches, 7 for validation, 2 epochs, then 7 for the test: 11 TRAIN and 21 EVAL steps of the loss."""
    import smdebug.pytorch as smd
    from smdebug import modes

    save = smd.SaveConfig({modes.TRAIN: smd.SaveConfigMode(10), modes.EVAL: smd.SaveConfigMode(1)})
    hook = smd.Hook(out_dir=str(tmp_path / "out"), save_config=save)
    model, loss = nn.Sequential(nn.Linear(3, 2)), nn.CrossEntropyLoss()
    hook.register_module(model)
    hook.register_loss(loss)
    for mode, count in ((modes.TRAIN, 53), (modes.EVAL, 7)) * 2 + ((modes.EVAL, 7),):
        hook.set_mode(mode)
        for _ in range(count):
            value = loss(model(torch.randn(4, 3)), torch.zeros(4, dtype=torch.int64))
    hook.close()
    trial = smd.create_trial(str(tmp_path / "out"))
    assert trial.tensor_names() == ["CrossEntropyLoss_output_0"]
    assert trial.tensor("CrossEntropyLoss_output_0").steps(mode=modes.TRAIN) == list(range(0, 106, 10))
    assert trial.tensor("CrossEntropyLoss_output_0").steps(mode=modes.EVAL) == list(range(21))
    assert float(trial.tensor("CrossEntropyLoss_output_0").value(20, mode=modes.EVAL)) == value.item()


def test_without_a_mode_steps_are_global_and_the_interval_is_500(tmp_path: Path) -> None:
    import smdebug.pytorch as smd

    hook = smd.Hook(str(tmp_path / "out"))
    assert smd.get_hook() is hook
    model, loss = nn.Linear(3, 2), nn.CrossEntropyLoss()
    hook.register_module(model)
    hook.register_loss(loss)
    for _ in range(501):
        loss(model(torch.zeros(1, 3)), torch.tensor([0]))
    hook.close()
    smd.del_hook()
    trial = smd.create_trial(str(tmp_path / "out"))
    assert trial.tensor("CrossEntropyLoss_output_0").steps() == [0, 500] and trial.modes() == []


def test_a_real_smdebug_comes_before_ours(tmp_path: Path) -> None:
    (tmp_path / "smdebug").mkdir()
    (tmp_path / "smdebug" / "__init__.py").write_text("real = True\n")
    code = "import finepoint, smdebug; assert smdebug.real"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, check=True)


def test_the_finder_stands_once_and_behind_the_one_that_finds_installed_packages() -> None:
    provide_smdebug()
    (ours,) = [place for place, finder in enumerate(sys.meta_path) if isinstance(finder, CompatibilityFinder)]
    assert ours > sys.meta_path.index(PathFinder)
