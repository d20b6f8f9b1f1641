"""The window of torch.profiler says how many steps it really holds, and why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finepoint.files import read_json
from finepoint.profiler.attachment import StepRecorder
from finepoint.profiler.loading import LoadingRecorder
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
    recorder = StepRecorder(tmp_path, LoadingRecorder(tmp_path), Window(tmp_path, 5))
    recorder.subscribe(cuda=False)
    for _ in range(trained):
        model(torch.rand(8, 4)).sum().backward()
        optimizer.step()
    recorder.close()
    recording = open_recording(tmp_path)
    summary = summary_of(recording, [], [])
    assert summary["window"] == {"asked": 5, "warm_up": 8, "steps": seen}
    assert [text for text in words_of(summary, [])["sentences"] if "torch.profiler" in text] == ([said] if said else [])
    if seen:
        assert read_json(tmp_path / "operators.json")["steps"] == seen
        assert read_json(tmp_path / "trace.json")["traceEvents"]
    else:
        assert not (tmp_path / "operators.json").exists()
