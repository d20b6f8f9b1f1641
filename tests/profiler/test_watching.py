"""Watching from outside refuses what cannot be watched, before there is a folder for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.profiler.watching import watch_process


@pytest.mark.parametrize("seconds", [-1.0, 0.0, float("nan")])
def test_a_time_that_is_none_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"seconds is .*; it must be above 0"):
        watch_process(os.getpid(), tmp_path / "job", interval_ms=100, seconds=seconds)
    assert not (tmp_path / "job").exists()


def test_a_number_that_no_process_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="1 or more"):
        watch_process(-5, tmp_path / "job", interval_ms=100)
    with pytest.raises(NotFoundError, match="no process 2147483648"):
        watch_process(2**31, tmp_path / "job", interval_ms=100)
    assert not (tmp_path / "job").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--job: the folder"):
        watch_process(os.getpid(), tmp_path / "file" / "job", interval_ms=100, seconds=1)
