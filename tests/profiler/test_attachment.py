"""What is on disk of a process that was killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from finepoint.profiler import phases
from finepoint.profiler.attachment import StepRecorder
from finepoint.profiler.loading import LoadingRecorder
from finepoint.profiler.recording import ProfilerRecording, open_recording


def killed(folder: Path, *, epochs: int, late: bool = False) -> ProfilerRecording:
    """Return what is on disk of a job that made a loader for each epoch, without an end of it.

    Args:
        folder: a new one.
        epochs: how many loaders of four batches.
        late: whether ten steps come first that need no loader.
    """
    output = folder / "profiler-output"
    loading = LoadingRecorder(output)
    loading.install()
    recorder = StepRecorder(output, loading)
    recorder.subscribe(cuda=False)
    model, images = nn.Linear(4, 2), torch.rand(64, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    for _ in range(10 if late else 0):
        step(images)
    for loader in [DataLoader(TensorDataset(images), 16) for _ in range(epochs)]:
        for (x,) in loader:
            step(x)
    recorder._writer.seal()  # as happens every few seconds
    recording = open_recording(folder)
    recorder.close()
    loading.remove()
    return recording


@pytest.mark.parametrize(("epochs", "late"), [(1, False), (5, False), (1, True)])
def test_the_loader_is_known_of_a_job_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, late: bool
) -> None:
    monkeypatch.setattr(phases, "SHORTEST_ROW_SECONDS", 0.0)  # rows are written at once
    recording = killed(tmp_path, epochs=epochs, late=late)
    loader = recording.loader()
    assert loader is not None
    assert len(recording.facts["loaders"]) == 1, "alike"
    assert (loader["batches"], loader["workers"], loader["shape"]) == (4, 0, [16, 4])
