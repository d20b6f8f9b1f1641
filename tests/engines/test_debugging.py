from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from finepoint.debugger import create_trial, modes
from finepoint.engines.debugging import debugger_configuration
from finepoint.engines.local import Watcher, execute, run_job
from finepoint.engines.profiling import profiler_configuration
from finepoint.engines.spec import Channel, JobSpec
from finepoint.errors import ConfigurationError
from finepoint.profiler.recording import open_recording

pytestmark = pytest.mark.slow


def test_a_script_with_smdebugs_hook_runs_unchanged_is_recorded_and_judged(
    tmp_path: Path, colours: Path, torch_home: Path
) -> None:
    hook = {"HookParameters": {"train.save_interval": "2", "eval.save_interval": "1"}}
    spec = JobSpec(
        "job",
        entry_point="train_model.py",
        source_dir=str(Path(__file__).parents[2] / "examples" / "code"),
        hyperparameters={"epochs": 2},
        channels={"train": Channel(str(colours / "train")), "valid": Channel(str(colours / "test"))},
        environment={"TORCH_HOME": str(torch_home)},
        debugger=debugger_configuration(hook=hook, rules={"VanishingGradient": {}, "Overfit": {}}),
        profiler=profiler_configuration(interval_ms=200),
    )
    said: list[str] = []
    run_job(tmp_path / "job", spec, Watcher(say=said.append))
    record = json.loads((tmp_path / "job" / "job.json").read_text())
    assert set(record["rules"]) == {"VanishingGradient", "Overfit"}
    assert record["profiler_rules"]
    assert sum(open_recording(tmp_path / "job").phases().values()) > 0
    trial = create_trial(tmp_path / "job" / "debug-output" / "tensors")
    loss = trial.tensor("CrossEntropyLoss_output_0")
    # 72 training images in batches of 8, twice; 24 test images likewise
    assert loss.steps(mode=modes.TRAIN) == list(range(0, 18, 2))
    assert loss.steps(mode=modes.EVAL) == list(range(6))
    assert "fc.0.weight" in " ".join(create_trial(tmp_path / "job").tensor_names())
    assert (tmp_path / "job" / "output" / "model.tar.gz").is_file()


_DIVERGES = """
import itertools, torch
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in itertools.count():
    loss = torch.nn.functional.mse_loss(model(torch.full((8, 4), float("nan") if step > 2 else 1.0)), torch.zeros(8, 2))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_a_rule_may_end_the_job(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_DIVERGES)
    spec = JobSpec(
        "job",
        entry_point="train.py",
        source_dir=str(tmp_path / "train.py"),
        debugger=debugger_configuration(rules={"NotANumber": {}}, stop_on=["NotANumber"]),
    )
    result = execute(tmp_path / "job", spec)
    assert (result.status, result.failure) == ("Stopped", "the rule NotANumber fired")


def test_a_script_that_records_nothing_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('no torch')")
    said: list[str] = []
    configuration = debugger_configuration(rules={"Overfit": {}})
    spec = JobSpec("job", entry_point="train.py", source_dir=str(tmp_path / "train.py"), debugger=configuration)
    run_job(tmp_path / "job", spec, Watcher(say=said.append))
    assert json.loads((tmp_path / "job" / "job.json").read_text())["rules"] == {"Overfit": "NotApplicable"}
    assert any("nothing was recorded" in text for text in said)


def test_rules_that_there_are_not_are_refused_with_the_other_mistakes(tmp_path: Path) -> None:
    configuration = {**debugger_configuration(), "rules": {"Nix": {}}}
    with pytest.raises(ConfigurationError, match="no rule 'Nix'") as caught:
        JobSpec("no name!", entry_point="train.py", source_dir=str(tmp_path), debugger=configuration)
    assert len(caught.value.mistakes) == 3


def test_a_sampler_that_was_killed_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('ready', flush=True)\nimport threading\nthreading.Event().wait()")
    spec = JobSpec(
        "job",
        entry_point="train.py",
        source_dir=str(tmp_path / "train.py"),
        profiler=profiler_configuration(interval_ms=100),
    )
    said: list[str] = []
    watcher = Watcher(say=said.append)

    def kill(host: str, line: str) -> None:
        mine = psutil.Process().children(recursive=True)
        living = [child for child in mine if child.status() != psutil.STATUS_ZOMBIE]
        samplers = [child for child in living if "finepoint.profiler.sampler" in child.cmdline()]
        for process in samplers:
            process.kill()
        supervisors[0].stop(f"{len(samplers)} killed")

    supervisors: list[Any] = []
    watcher.on_start, watcher.on_line = supervisors.append, kill
    assert execute(tmp_path / "job", spec, watcher).failure == "1 killed"
    assert sum("sampler was killed" in text for text in said) == 1
