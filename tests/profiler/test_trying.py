"""Which changes are tried, and how two windows are compared."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.profiler.making import NETWORK, job, recording, step

from finepoint.errors import ConfigurationError, InputError, JobError
from finepoint.files import write_json
from finepoint.profiler.trying import candidates, compare_losses, try_changes

ROWS = [step(data_wait=0.3, forward=0.1, backward=0.1)] * 20


def test_findings_changes_are_tried_with_their_prediction_and_formats_for_convolutions() -> None:
    facts = {"networks": [NETWORK | {"convolutions": 3, "channels_last": False}]}
    found = candidates(recording(ROWS, facts=facts))
    assert [change for change, _ in found] == [
        {"num_workers": 2},
        {"memory_format": "channels_last"},
        {"precision": "bf16"},
    ]
    assert found[0][1] == pytest.approx(2.43, rel=0.01)
    assert [predicted for _, predicted in found[1:]] == [None, None]


def test_changes_that_only_the_script_can_make_are_left_out() -> None:
    frozen = {"networks": [NETWORK | {"frozen_share": 0.9}]}
    rows = [step(forward=0.3, backward=0.01)] * 40
    assert candidates(recording(rows, facts=frozen)) == []


def test_windows_are_equal_close_or_different() -> None:
    plain = {"losses": [1.0, 2.0], "batch_size": 4}
    assert compare_losses(plain, plain) == "equal"
    assert compare_losses(plain, {"losses": [1.0, 2.1], "batch_size": 4}).startswith("differs")
    assert compare_losses(plain, {"losses": [1.0], "batch_size": 8}).startswith("not comparable")
    assert compare_losses(plain, {"losses": [], "batch_size": 4}) == "no loss was seen"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "steps: it was killed by SIGKILL"),
        ("raise SystemExit('no data')", "steps: it ended with exit code 1: no data"),
        ("pass", "may not have imported torch"),
    ],
)
def test_a_script_that_is_over_before_its_window_says_how_it_ended(tmp_path: Path, script: str, words: str) -> None:
    made = job(tmp_path / "job", recording(ROWS))
    write_json(made / "job.json", {"command": [sys.executable, "-c", script], "working_directory": str(tmp_path)})
    with pytest.raises(JobError) as raised:
        try_changes(made)
    assert words in str(raised.value)
    assert not str(raised.value).endswith(": ")


def test_a_job_without_a_script_and_a_window_too_short_are_refused(tmp_path: Path) -> None:
    job(tmp_path, recording(ROWS))
    with pytest.raises(InputError, match="its script is not known"):
        try_changes(tmp_path)
    with pytest.raises(ConfigurationError, match="at least 10"):
        try_changes(tmp_path, steps=3)
