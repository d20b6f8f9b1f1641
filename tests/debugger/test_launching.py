"""`finepoint debug run`: scripts unchanged, judged, stopped, killed, in several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.debugger import scripts

from finepoint.cli import run_command
from finepoint.debugger import Recording, create_trial, modes
from finepoint.debugger.launching import DebugJob, run_script
from finepoint.debugger.rules.checking import check_recording
from finepoint.errors import ConfigurationError


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A training script with a ReLU on its logits."""
    path = tmp_path / "train.py"
    path.write_text(scripts.TRAIN)
    return path


def test_mistakes_are_told_all_at_once_before_anything_runs(tmp_path: Path) -> None:
    job = DebugJob(tmp_path / "absent.py", (), tmp_path / "job", hook_config=tmp_path / "no.json", stop_on=["NoRule"])
    with pytest.raises(ConfigurationError) as caught:
        run_script(job)
    assert len(caught.value.mistakes) == 3 and not (tmp_path / "job").exists()


@pytest.mark.slow
def test_a_job_is_recorded_judged_and_can_be_looked_at(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job"
    assert run_command(["debug", "run", str(script), "--job", str(job), "--json", "--", "3", "--flag"]) == 0
    out = capsys.readouterr()
    told = json.loads(out.out)
    assert told["status"] == "Completed" and told["overhead_fraction"] > 0
    findings = {item["rule"]: item for item in told["findings"]}
    assert findings["ActivationOnLogits"]["status"] == "IssuesFound" and findings["ActivationOnLogits"]["remedy"]
    assert "arguments ['3', '--flag']" in out.err and "epoch 2 valid loss" in (job / "logs.txt").read_text()
    assert json.loads((job / "job.json").read_text())["status"] == "Completed"
    assert json.loads((job / "rule-output" / "debugger.json").read_text()) == told["findings"]
    lines = Recording.open(job).facts("line")
    assert [list(line["numbers"]) for line in lines] == [[f"epoch {n} valid loss"] for n in range(3)]

    assert run_command(["debug", "check", str(job), "--rule", "ActivationOnLogits"]) == 1
    assert run_command(["debug", "check", str(job), "--rule", "vanishing_gradient", "--set", "threshold=1e-30"]) == 0
    assert run_command(["debug", "show", str(job), "Loss", "--json"]) == 0
    assert run_command(["debug", "tail", str(job), "--period", "0"]) == 0
    assert run_command(["debug", "plot", str(job), "Loss_output", "-o", str(tmp_path / "loss.png")]) == 0
    assert run_command(["debug", "export", str(job), "--tensorboard", str(tmp_path / "events")]) == 0
    assert "ActivationOnLogits" in capsys.readouterr().out and (tmp_path / "loss.png").stat().st_size > 1000
    assert run_command(["debug", "run", str(script), "--job", str(job), "--", "1"]) == 2


@pytest.mark.slow
def test_a_script_that_nothing_can_be_attached_to_is_told(tmp_path: Path) -> None:
    script = tmp_path / "isolated.py"
    script.write_text("import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', 'import torch'])")
    result = run_script(DebugJob(script, (), tmp_path / "job"))
    assert result.results == [] and "nothing was recorded: nothing could be attached" in result.unseen[0]


@pytest.mark.slow
def test_a_rule_may_stop_the_job(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(scripts.ENDLESS)
    result = run_script(DebugJob(script, ("1",), tmp_path / "job", stop_on=["ActivationOnLogits"]))
    assert result.status == "Stopped" and result.stopped_by == "ActivationOnLogits"
    assert result.exit_code == -signal.SIGTERM


@pytest.mark.slow
def test_a_job_killed_in_mid_training_leaves_a_recording_that_opens_and_is_judged(tmp_path: Path) -> None:
    script, job = tmp_path / "endless.py", tmp_path / "job"
    script.write_text(scripts.ENDLESS)
    code = "import sys; from finepoint.cli import run_command; sys.exit(run_command(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "debug", "run", str(script), "--job", str(job), "--", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in process.stdout:
            if len(list(job.glob("debug-output/rank*/*.safetensors"))) >= 2:
                break
        (folder,) = job.glob("debug-output/rank*")
        os.kill(int(folder.name.split("-")[2]), signal.SIGKILL)
        process.stdout.read()
    recording = Recording.open(job)
    assert not recording.ended and recording.damaged == [] and len(recording.steps(modes.TRAIN)) > 5
    results = {item.rule: item for item in check_recording(recording)}
    assert results["ActivationOnLogits"].fired
    assert json.loads((job / "job.json").read_text())["status"] == "Failed"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_every_rank_has_its_recording_and_weights_stay_equal(tmp_path: Path, method: str) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(scripts.RANKS)
    plain, watched = tmp_path / "plain.pt", tmp_path / "watched.pt"
    if method == "fork":
        subprocess.run([sys.executable, script, method, tmp_path / "a", plain], check=True)
    result = run_script(DebugJob(script, (method, str(tmp_path / "b"), str(watched)), tmp_path / "job"))
    assert result.status == "Completed"
    recording = Recording.open(tmp_path / "job")
    assert recording.ranks == [0, 1] and recording.ended and recording.steps(modes.TRAIN) == list(range(6))
    series = recording.series("CrossEntropyLoss_output_0")
    assert series.ranks.tolist() == [0, 1] * 6 and recording.facts("process")[0]["world_size"] == 2
    if method == "fork":
        one, other = torch.load(plain, weights_only=True), torch.load(watched, weights_only=True)
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_script_with_smdebug_in_it_runs_unchanged_and_is_recorded_twice_over(tmp_path: Path) -> None:
    script = tmp_path / "smd.py"
    script.write_text(
        "import smdebug.pytorch as smd\nimport torch\nfrom torch import nn\n"
        "hook = smd.Hook.create_from_json_file()\nmodel, loss = nn.Linear(3, 2), nn.CrossEntropyLoss()\n"
        "hook.register_module(model)\nhook.register_loss(loss)\nhook.set_mode(smd.modes.TRAIN)\n"
        "for _ in range(21):\n    loss(model(torch.zeros(2, 3)), torch.tensor([0, 1])).backward()\n"
    )
    config = tmp_path / "debughookconfig.json"
    config.write_text(json.dumps({"HookParameters": {"train.save_interval": "10"}}))
    result = run_script(DebugJob(script, (), tmp_path / "job", hook_config=config))
    assert result.status == "Completed"
    trial = create_trial(tmp_path / "job" / "debug-output" / "tensors")
    assert trial.tensor("CrossEntropyLoss_output_0").steps(mode=modes.TRAIN) == [0, 10, 20]
    assert len(Recording.open(tmp_path / "job").series("CrossEntropyLoss_output_0")) == 21
