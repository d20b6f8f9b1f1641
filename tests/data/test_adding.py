from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from finepoint.data.adding import UNSORTED, add_reviewed, is_capture, sort_captured
from finepoint.errors import DataError

JPEG = b"\xff\xd8\xff"


def event(image: bytes | None, answer: Any) -> str:
    output = {
        "observedContentType": "application/json",
        "mode": "OUTPUT",
        "data": json.dumps(answer),
        "encoding": "JSON",
    }
    captured: dict[str, Any] = {"endpointOutput": output}
    if image is not None:
        data = base64.b64encode(image).decode()
        captured["endpointInput"] = {
            "observedContentType": "image/jpeg",
            "mode": "INPUT",
            "data": data,
            "encoding": "BASE64",
        }
    return json.dumps({"captureData": captured, "eventMetadata": {}, "eventVersion": "0"})


def written(folder: Path, lines: list[str]) -> Path:
    path = folder / "hat" / "AllTraffic" / "2026" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_captured_images_become_folders_and_then_part_of_the_data_set(tmp_path: Path) -> None:
    lines = [
        event(JPEG + b"1", {"label": "hat", "probability": 0.9, "unknown": False}),
        event(JPEG + b"1", {"label": "hat", "probability": 0.9, "unknown": False}),
        event(JPEG + b"2", {"label": "shoe", "probability": 0.6, "unknown": True}),
        event(JPEG + b"3", {"label": "../../etc", "probability": 0.5}),
        event(None, {"label": "hat", "probability": 0.5}),
        event(JPEG, {"predictions": []}),
        "not json",
    ]
    capture, review = written(tmp_path / "capture", lines), tmp_path / "review"
    assert is_capture(capture)
    added = sort_captured(capture, review)
    assert dict(added.images) == {"hat": 1, "shoe": 1, UNSORTED: 1}
    assert added.known == 1
    assert sum(added.left_out.values()) == 3
    assert [name.split("/")[0] for name in files(review)] == ["hat", "shoe", UNSORTED]
    assert files(review)[1].startswith("shoe/unknown-")
    (tmp_path / "photos" / "train" / "hat").mkdir(parents=True)
    (tmp_path / "photos" / "train" / "shoe").mkdir()
    with pytest.raises(DataError, match="no class 'unsorted'"):
        add_reviewed(review, tmp_path / "photos")
    (review / files(review)[2]).unlink()
    assert not is_capture(review)
    assert add_reviewed(review, tmp_path / "photos").images.total() == 2
    names = files(tmp_path / "photos")
    assert [name.rsplit("/", 1)[0] for name in names] == ["train/hat", "train/shoe"]
    assert all(name.rsplit("/", 1)[1].startswith("captured-") for name in names)
    assert add_reviewed(review, tmp_path / "photos").known == 2


def test_only_unsure_and_unknown_images_where_that_is_wanted(tmp_path: Path) -> None:
    lines = [
        event(JPEG + b"1", {"label": "hat", "probability": 0.95, "unknown": False}),
        event(JPEG + b"2", {"label": "hat", "probability": 0.95, "unknown": True}),
        event(JPEG + b"3", {"label": "hat", "probability": 0.4, "unknown": False}),
    ]
    added = sort_captured(written(tmp_path / "capture", lines), tmp_path / "review", unsure_below=0.8)
    assert dict(added.images) == {"hat": 2}
    assert dict(added.left_out) == {"sure: 80 % or more": 1}


def test_a_capture_without_images_says_how_to_capture_them(tmp_path: Path) -> None:
    capture = written(tmp_path / "capture", [event(None, {"label": "hat", "probability": 0.5})])
    with pytest.raises(DataError, match="--capture-images"):
        sort_captured(capture, tmp_path / "review")
    with pytest.raises(DataError, match="neither captured requests"):
        add_reviewed(tmp_path, tmp_path)
