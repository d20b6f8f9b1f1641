from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.serving.packages import handler

from finepoint.cli.deploy import command
from finepoint.errors import ConfigurationError
from finepoint.runs.deploying import captures_dir

CLOUD: dict[str, Any] = {
    "--cloud": {"cloud": ["region=eu-west-1"]},
    "--mode": {"mode": "async"},
    "--instances": {"instances": 2},
    "--max-instances": {"max_instances": 4},
    "--scale-at": {"scale_at": 300.0},
    "--update": {"update": "rolling"},
    "--max-price": {"max_price": 0.0},
}


@pytest.mark.parametrize("printed", [None, "systemd"])
def test_flags_of_the_cloud_are_refused_on_this_machine_each_by_its_name(tmp_path: Path, printed: Any) -> None:
    for flag, given in CLOUD.items():
        with pytest.raises(ConfigurationError, match=f"^{flag} is for --engine sagemaker"):
            command(str(tmp_path), printed=printed, **given)
    together = {name: value for given in CLOUD.values() for name, value in given.items()}
    with pytest.raises(ConfigurationError, match=f"^{', '.join(CLOUD)} are for --engine sagemaker"):
        command(str(tmp_path), printed=printed, **together)


def test_flags_of_this_machine_are_refused_in_the_cloud(tmp_path: Path) -> None:
    local: dict[str, Any] = {"port": 8080, "allow_code": True, "runtime": "cuda", "token_file": tmp_path / "token"}
    with pytest.raises(
        ConfigurationError, match=r"^--port, --token-file, --allow-code, --runtime are for this machine"
    ):
        command(str(tmp_path), engine="sagemaker", **local)


def test_a_printed_unit_has_the_flags_of_capture_and_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = str(handler(tmp_path / "a", "one"))
    given: dict[str, Any] = {"name": "kept", "start_seconds": 200.0, "capture": "10%", "capture_images": True}
    command(package, printed="systemd", **given)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ExecStart=")]
    for words in (
        ["--start-seconds", "200"],
        ["--capture-folder", str(captures_dir().resolve())],
        ["--capture-share", "0.1"],
        ["--capture-images"],
    ):
        assert " ".join(f'"{word}"' for word in words) in line
    assert not (captures_dir() / "kept").exists()


def test_a_printed_compose_file_has_the_flags_of_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(str(handler(tmp_path / "a", "one")), printed="compose", name="kept", start_seconds=200.0)
    (service,) = yaml.safe_load(capsys.readouterr().out)["services"].values()
    assert service["healthcheck"]["start_period"] == "200s"
    assert "--capture-folder" not in service["entrypoint"]


@pytest.mark.parametrize("printed", ["systemd", "compose"])
def test_a_canary_is_refused_for_a_printed_unit(tmp_path: Path, printed: Any) -> None:
    with pytest.raises(ConfigurationError, match="--canary is for a running endpoint"):
        command(str(tmp_path), printed=printed, canary="10%")
