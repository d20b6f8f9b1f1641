from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import write_images

from finepoint.data import shards
from finepoint.data.shards import is_worth_packing, unpacked, write_shards
from finepoint.errors import DataError
from finepoint.files import sha256_of
from finepoint.training.channels import read_channel


def files_of(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def packed(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    folder.mkdir()
    return write_shards(files, folder)


def test_the_trainer_reads_the_same_images_from_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_SHARD_BYTES", 20_000)
    images = write_images(tmp_path / "images", 5)
    made = packed(files_of(images), tmp_path / "packed")
    assert len(made) > 3
    plain, back = read_channel(images), read_channel(tmp_path / "packed")
    assert back.labels == plain.labels
    assert [image.sha256 for image in back.images] == [image.sha256 for image in plain.images]
    assert read_channel(tmp_path / "packed").labels == back.labels  # a job that goes on


def test_one_changed_file_changes_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_SHARD_BYTES", 20_000)
    images = write_images(tmp_path / "images", 5)
    files = files_of(images)
    first = {name: sha256_of(path) for name, path in packed(files, tmp_path / "1").items()}
    assert {name: sha256_of(path) for name, path in packed(files, tmp_path / "2").items()} == first
    changed = next(iter(files.values()))
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    second = {name: sha256_of(path) for name, path in packed(files, tmp_path / "3").items()}
    assert sum(second[name] != first[name] for name in first) == 1


def test_few_or_large_files_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("a", 10), ("b", 30)):
        (tmp_path / name).write_bytes(bytes(size))
    files = files_of(tmp_path)
    assert not is_worth_packing(files)
    monkeypatch.setattr(shards, "_MIN_FILES", 2)
    assert is_worth_packing(files)
    monkeypatch.setattr(shards, "_MAX_MEAN_BYTES", 20)
    assert not is_worth_packing(files)


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1)
    made = packed(files_of(images), tmp_path / "packed")
    next(iter(made.values())).unlink()
    with pytest.raises(DataError, match="is not there"):
        unpacked(tmp_path / "packed")
    assert unpacked(images) == images
