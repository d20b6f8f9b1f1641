from __future__ import annotations

import base64
import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.serving.conftest import picture, serving

from finepoint.errors import ConfigurationError
from finepoint.serving import capture
from finepoint.serving.capture import Capture, CaptureSettings
from finepoint.serving.messages import Request, Response

RED = picture((255, 0, 0))


def lines(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.rglob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]


def asked(number: int = 0, size: int = 10) -> tuple[Request, Response]:
    headers = {"content-type": "image/png", "x-amzn-sagemaker-inference-id": f"id-{number}"}
    return Request("POST", "/invocations", headers=headers, body=b"x" * size), Response(b'{"label": "a"}')


def test_requests_and_answers_are_kept_as_sagemaker_writes_them(tmp_path: Path) -> None:
    writer = Capture(CaptureSettings(tmp_path, images=True), "clothes")
    with serving(capture=writer) as served:
        served.ask(RED, "image/png", "/invocations?top=1")
        served.ask(b"no image", "image/png")
        served.client.get("/metadata")
        assert "finepoint_captured_total" in served.client.get("/metrics").text
    writer.close()
    (event,) = lines(tmp_path / "clothes" / "AllTraffic")
    assert set(event) == {"captureData", "eventMetadata", "eventVersion"}
    given, answered = (event["captureData"][side] for side in ("endpointInput", "endpointOutput"))
    assert (given["observedContentType"], given["mode"], given["encoding"]) == ("image/png", "INPUT", "BASE64")
    assert base64.b64decode(given["data"]) == RED
    assert (answered["observedContentType"], answered["mode"], answered["encoding"]) == (
        "application/json",
        "OUTPUT",
        "JSON",
    )
    assert json.loads(answered["data"])["label"] == "red"
    at = datetime.fromisoformat(event["eventMetadata"]["inferenceTime"])
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    (file,) = tmp_path.rglob("*.jsonl")
    assert file.relative_to(tmp_path).parts[2:6] == (f"{at:%Y}", f"{at:%m}", f"{at:%d}", f"{at:%H}")
    assert file.stat().st_mode & 0o077 == 0


def test_without_images_only_answers_are_kept(tmp_path: Path) -> None:
    writer = Capture(CaptureSettings(tmp_path), "clothes")
    writer.offer(*asked(7))
    writer.close()
    (event,) = lines(tmp_path)
    assert list(event["captureData"]) == ["endpointOutput"]
    assert event["eventMetadata"]["inferenceId"] == "id-7"


def test_a_share_of_the_requests_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_WAITING", 5000)
    writer = Capture(CaptureSettings(tmp_path, share=0.2), "clothes")
    for number in range(2000):
        writer.offer(*asked(number))
    writer.close()
    assert 300 < len(lines(tmp_path)) < 500


def test_files_are_rotated_and_the_oldest_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_FILE_BYTES", 20_000)
    monkeypatch.setattr(capture, "_WAITING", 500)
    writer = Capture(CaptureSettings(tmp_path, images=True, max_bytes=100_000), "clothes")
    for number in range(200):
        writer.offer(*asked(number, size=3000))
    writer.close()
    files = list(tmp_path.rglob("*.jsonl"))
    assert len(files) > 2
    assert sum(path.stat().st_size for path in files) <= 100_000
    assert all(path.stat().st_size <= 20_000 for path in files)
    assert any(event["eventMetadata"]["inferenceId"] == "id-199" for event in lines(tmp_path))


def test_what_a_slow_disk_cannot_take_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.write_text("a file where a folder should be")
    writer = Capture(CaptureSettings(full), "clothes")
    writer.offer(*asked())
    writer.close()
    assert writer.metrics[1].values == {(): 1}


def test_what_waits_for_the_disk_is_bounded_in_bytes_and_holds_no_body_that_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_WAITING_BYTES", 10_000)
    disk = threading.Event()
    append = Capture._append

    def slowly(self: Capture, line: bytes, at: datetime) -> None:
        assert disk.wait(10)
        append(self, line, at)

    monkeypatch.setattr(Capture, "_append", slowly)
    for images, kept in ((True, 3), (False, 20)):
        disk.clear()
        writer = Capture(CaptureSettings(tmp_path / str(images), images=images), "clothes")
        for number in range(20):
            writer.offer(*asked(number, size=3000))
        disk.set()
        writer.close()
        assert len(lines(tmp_path / str(images))) == kept
        assert sum(writer.metrics[1].values.values()) == 20 - kept


def test_a_share_must_be_one() -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        CaptureSettings(Path("x"), share=0)
