"""The commands for AWS as a user meets them: the rehearsal, and mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.acceptance.conftest import COMMAND, Finepoint, value_of

pytestmark = pytest.mark.slow
ROLE = "arn:aws:iam::123456789012:role/finepoint"


def test_a_rehearsal_shows_how_it_is_used_and_ends_on_an_interrupt(
    finepoint: Finepoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a shell's background jobs, and what they start inherits it
    playing = subprocess.Popen([*COMMAND, "rehearse", "--bucket", "photos"], stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert playing.stdout is not None
    try:
        for line in playing.stdout:
            if line.strip().startswith("export "):
                name, _, value = line.strip().removeprefix("export ").partition("=")
                monkeypatch.setenv(name, value)
            if "finepoint run" in line:
                break
        assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "1.txt").write_text("1")
        cloud = ("--cloud", f"role={ROLE}", "--cloud", "bucket=photos")
        rows = value_of(finepoint("doctor", "--engine", "sagemaker", *cloud, "--json"))
        assert {row["severity"] for row in rows} == {"info"}
        assert value_of(finepoint("data", "push", tmp_path / "a", "s3://photos/a", "--json"))["moved"] == 1
        assert "0 of 1 files" in finepoint("data", "push", tmp_path / "a", "s3://photos/a", "--dry-run").stdout
        finepoint("data", "pull", "s3://photos/a", tmp_path / "back")
        assert (tmp_path / "back" / "1.txt").read_text() == "1"
        assert value_of(finepoint("endpoints", "--engine", "sagemaker", *cloud, "--json")) == []
        assert "no endpoint 'nix'" in finepoint("undeploy", "nix", "--engine", "sagemaker", *cloud, code=2).stderr
        (tmp_path / "train.py").write_text("import os\nprint('loss=0.5;', os.listdir(os.environ['SM_CHANNEL_A']))\n")
        script = (
            "train",
            "--entry-point",
            tmp_path / "train.py",
            "--channel",
            f"a={tmp_path / 'a'}",
            "--run",
            "script",
        )
        metric = ("--metric-definition", "loss=loss=(.*?);")
        done = finepoint(*script, *metric, "--engine", "sagemaker", *cloud, "--cloud", "poll_seconds=0.3", "--json")
        assert value_of(done)["metrics"] == {"loss": 0.5}
        assert "loss=0.5; ['1.txt']" in finepoint("logs", "script").stdout
        assert value_of(finepoint("wait", "script", "--json"))["status"] == "Completed"
    finally:
        playing.send_signal(signal.SIGINT)
        assert playing.wait(60) == 0
        playing.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", ".", "--cloud", "role=x"], "for --engine sagemaker"),
        (["run", ".", "--engine", "sagemaker"], "role is ''"),
        (["deploy", "first", "--engine", "sagemaker", "--cloud", "nix=1"], "nix is no setting"),
        (["data", "push", ".", "photos"], "AWS region is set"),
        (["predict", "first", "nix.jpg", "--engine", "sagemaker"], "one folder of images"),
        (["cleanup", "nix"], "nothing was created in AWS for 'nix'"),
    ],
)
def test_mistakes_are_explained(
    finepoint: Finepoint, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    assert words in finepoint(*arguments, code=2).stderr
