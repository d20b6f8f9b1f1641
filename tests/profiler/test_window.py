"""The window of torch.profiler says how many steps it really holds, and why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.profiler.making import watched

from finepoint.files import read_json
from finepoint.profiler.recording import open_recording
from finepoint.profiler.summary import summary_of
from finepoint.profiler.window import Window
from finepoint.profiler.wording import words_of


@pytest.mark.parametrize(
    ("trained", "seen", "said"),
    [
        (3, 0, "There is no torch.profiler window: it begins after 8 steps, and the job was over before."),
        (10, 2, "The torch.profiler window holds 2 of 5 steps: the job was over before."),
        (20, 5, ""),
    ],
)
def test_a_window_holds_the_steps_that_ran_in_it(tmp_path: Path, trained: int, seen: int, said: str) -> None:
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, Window(tmp_path, 5)):
        for _ in range(trained):
            model(torch.rand(8, 4)).sum().backward()
            optimizer.step()
    recording = open_recording(tmp_path)
    summary = summary_of(recording, [], [])
    assert summary["window"] == {"asked": 5, "warm_up": 8, "steps": seen, "left_to_script": False}
    assert [text for text in words_of(summary, [])["sentences"] if "torch.profiler" in text] == ([said] if said else [])
    if seen:
        assert read_json(tmp_path / "operators.json")["steps"] == seen
        assert read_json(tmp_path / "trace.json")["traceEvents"]
    else:
        assert not (tmp_path / "operators.json").exists()


@pytest.mark.parametrize(("before", "wait"), [(0, 5), (10, 0)])
def test_a_script_that_runs_torch_profiler_itself_is_left_to_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], before: int, wait: int
) -> None:
    """Its profiler is made before the window would begin, or in it."""
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(steps: int) -> None:
        for _ in range(steps):
            model(torch.rand(8, 4)).sum().backward()
            optimizer.step()

    with watched(tmp_path, Window(tmp_path, 5)):
        train(before)
        schedule = torch.profiler.schedule(wait=wait, warmup=5, active=5, repeat=1)
        with torch.profiler.profile(schedule=schedule) as its_own:
            for _ in range(20):
                train(1)
                its_own.step()
    assert {event.name for event in its_own.events()} >= {"aten::linear"}
    summary = summary_of(open_recording(tmp_path), [], [])
    window = summary["window"]
    assert (window["steps"], window["left_to_script"]) == (0, True)
    assert any("the script runs torch.profiler itself" in text for text in words_of(summary, [])["sentences"])
    assert "the script runs torch.profiler itself" in capfd.readouterr().err
    assert torch.autograd.profiler.profile.__init__.__module__ == "torch.autograd.profiler"
