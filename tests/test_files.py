"""Files are whole, and folders are made or refused in a sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from finepoint.errors import ConfigurationError
from finepoint.files import make_folder, read_json, write_json


def test_a_name_that_is_no_utf_8_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    value = {"name": os.fsdecode(b"caf\xe9\\"), "other": "café \\ud"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "caf\\udce9" in (tmp_path / "a.json").read_text()


def test_a_folder_that_cannot_be_made_names_the_flag_and_the_reason(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b", "--job")
    make_folder(tmp_path / "a" / "b", "--job")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"--to: the folder .*file cannot be made \(File exists\)"):
        make_folder(tmp_path / "file", "--to")
    with pytest.raises(ConfigurationError, match="Not a directory"):
        make_folder(tmp_path / "file" / "below", "--to")


def test_a_full_disk_is_no_fault_of_the_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left"):
        make_folder(tmp_path / "a", "--job")
