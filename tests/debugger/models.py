"""Small models and loops that the debugger's tests record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from finepoint.debugger.budget import Budget
from finepoint.debugger.collection import CollectionManager
from finepoint.debugger.observers import observe
from finepoint.debugger.recorder import Recorder
from finepoint.debugger.recording import Recording
from finepoint.debugger.selection import Selection
from finepoint.debugger.writing import RecordingWriter


class Net(nn.Module):
    """A CNN with an in-place ReLU that is called three times and a convolution that is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.twin = self.again
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(6 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = self.relu(self.twin(self.relu(self.again(x))))
        return self.fc(self.drop(x.flatten(1)))


def batches(count: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of 8 images of 8 x 8 pixels with labels of 4 classes."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 3, 8, 8, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def train(model: nn.Module, steps: int, lr: float = 0.05) -> None:
    """Train with SGD."""
    loss, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr)
    model.train()
    for images, labels in batches(steps):
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()


def evaluate(model: nn.Module, steps: int) -> None:
    """Evaluate."""
    model.eval()
    with torch.no_grad():
        for images, labels in batches(steps, seed=1):
            nn.functional.cross_entropy(model(images), labels)


@contextmanager
def attached(folder: Path, share: float = 1e9) -> Iterator[Recorder]:
    """Record what happens in the block as the attached debugger does; by default every step is saved."""
    selection = Selection(CollectionManager(), budget=Budget(share))
    recorder = Recorder(RecordingWriter(folder), selection, discover=True)
    observe(recorder)
    try:
        yield recorder
    finally:
        recorder.close()


def recorded(folder: Path) -> Recording:
    """Return what was recorded, which must be without a failure of ours."""
    from finepoint import instrumentation

    assert instrumentation.failures == []
    return Recording.open(folder)
