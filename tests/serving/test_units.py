from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from finepoint.errors import ConfigurationError
from finepoint.serving.__main__ import _parser
from finepoint.serving.capture import CaptureSettings
from finepoint.serving.deployment import Access
from finepoint.serving.units import unit


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "100 % $mine"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text("")
    return folder


def test_a_systemd_unit_says_the_supervisors_command_whatever_the_paths_hold(model: Path) -> None:
    text = unit("systemd", model, name="clothes", host="127.0.0.1", port=0, access=Access(allow_code=True))
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.removeprefix("ExecStart="))]
    assert words[:5] == [sys.executable, "-m", "finepoint.serving.supervisor", "--model", str(model)]
    assert words[5:] == [
        "--name",
        "clothes",
        "--host",
        "127.0.0.1",
        "--port",
        "8080",
        "--start-seconds",
        "60",
        "--allow-code",
    ]


def test_a_compose_file_publishes_only_the_address_asked_for(model: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    text = unit("compose", model, name="Clothes", host="0.0.0.0", port=9000, access=Access(token_file=token))
    service = yaml.safe_load(text)["services"]["clothes"]
    assert service["ports"] == ["0.0.0.0:9000:8080"]
    assert [volume["source"].replace("$$", "$") for volume in service["volumes"]] == [str(model), str(token)]
    given = _parser().parse_args(service["entrypoint"][3:])  # the server knows every flag
    assert (str(given.token_file), given.no_auth, given.allow_code) == ("/run/secrets/token-file", False, False)
    assert service["read_only"] and service["cap_drop"] == ["ALL"]


def test_a_compose_files_container_can_read_what_it_is_given_and_says_whether_it_is_healthy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("token", "certificate", "key")]
    for file in files:
        file.write_text("x")
        file.chmod(0o600)
    access = Access(files[0], False, files[1], files[2])
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 567)
    service = yaml.safe_load(unit("compose", model, name="c", host="0.0.0.0", port=1, access=access))["services"]["c"]
    assert service["user"] == "1234:567"
    check = service["healthcheck"]["test"]
    assert check[:4] == ["CMD", "python", "-m", "finepoint.serving.health"]
    assert check[4:] == ["--port", "8080", "--certificate", "/run/secrets/tls-certificate"]
    assert check[-1] in [volume["target"] for volume in service["volumes"]]
    plain = yaml.safe_load(unit("compose", model, name="c", host="127.0.0.1", port=1, access=Access()))
    assert "--certificate" not in plain["services"]["c"]["healthcheck"]["test"]
    # Printed by root the container is another user than who owns the files.
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(ConfigurationError, match="3 settings are wrong") as refused:
        unit("compose", model, name="c", host="0.0.0.0", port=1, access=access)
    assert all(str(file) in str(refused.value) for file in files)
    for file in files:
        file.chmod(0o644)
    readable = yaml.safe_load(unit("compose", model, name="c", host="0.0.0.0", port=1, access=access))
    assert "user" not in readable["services"]["c"]  # the image's own


def test_a_compose_files_container_keeps_captures_in_a_folder_that_its_user_can_write(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = CaptureSettings(tmp_path / "captures", 0.1, images=True)

    def printed() -> str:
        return unit("compose", model, name="Kept", host="127.0.0.1", port=1, access=Access(), capture=capture)

    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(ConfigurationError, match=r"--capture keeps answers in .*the container's user may not write"):
        printed()
    assert not capture.folder.exists()
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    service = yaml.safe_load(printed())["services"]["kept"]
    given = _parser().parse_args(service["entrypoint"][3:])
    assert (str(given.capture_folder), given.capture_share, given.capture_images) == ("/opt/ml/captures", 0.1, True)
    (volume,) = [each for each in service["volumes"] if not each.get("read_only")]
    assert volume["target"] == "/opt/ml/captures/Kept"  # where the server writes for an endpoint of this name
    assert Path(volume["source"]) == capture.folder / "Kept"
    assert (capture.folder / "Kept").stat().st_mode & 0o777 == 0o700


def test_neither_opens_an_endpoint_to_everybody_unasked(model: Path) -> None:
    with pytest.raises(ConfigurationError, match="can be reached from other machines"):
        unit("systemd", model, name="x", host="0.0.0.0", port=0, access=Access())
