from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from finepoint import caching
from finepoint.errors import ConfigurationError


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three folders of features of 1,000 bytes each, the first unused longest."""
    monkeypatch.setenv("FINEPOINT_CACHE", str(tmp_path))
    folders = []
    for number in range(3):
        folder = tmp_path / "features" / f"folder-{2 - number}"
        folder.mkdir(parents=True)
        (folder / "a.safetensors").write_bytes(bytes(1000))
        os.utime(folder, (number, number))
        folders.append(folder)
    return folders


def test_what_was_unused_longest_goes_first_and_no_more_than_needed(three: list[Path]) -> None:
    assert [entry.path for entry in caching.evict(2000)] == three[:1]
    assert [folder.exists() for folder in three] == [False, True, True]


def test_use_keeps_features_from_going(three: list[Path]) -> None:
    caching.mark_used(three[0])
    assert [entry.path for entry in caching.evict(2000)] == [three[1]]


def test_what_is_kept_or_being_filled_stays(three: list[Path]) -> None:
    with FileLock(three[0] / "lock"):
        assert [entry.path for entry in caching.evict(0, keep=[three[1]])] == [three[2]]


def test_graphs_and_weights_go_only_when_asked(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "a.onnx").write_bytes(bytes(10))
    caching.evict(0)
    assert [entry.kind for entry in caching.cache_entries()] == ["graphs"]
    assert [entry.bytes for entry in caching.clear(["graphs"])] == [10]
    assert caching.cache_entries() == []


def test_the_limit_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPOINT_CACHE_MAX_BYTES", "5")
    assert caching.max_bytes() == 5
    monkeypatch.setenv("FINEPOINT_CACHE_MAX_BYTES", "much")
    with pytest.raises(ConfigurationError, match="whole number of bytes"):
        caching.max_bytes()
