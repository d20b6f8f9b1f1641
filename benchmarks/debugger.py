"""What recording costs: trainings with and without the debugger, paired and interleaved in one process.

Each round is a training of 10 to 70 seconds without and one with the recorder, by turns of half a second or a step; the
overhead is the median of the rounds' ratios (`--quick`: trainings of seconds, on which the first saved steps weigh
more). Also: the bytes of a recording of a ResNet-50.

    python benchmarks/debugger.py [--quick] [--json] [--only NAME]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional

from finepoint.debugger.budget import BUDGET, Budget
from finepoint.debugger.collection import CollectionManager
from finepoint.debugger.observers import observe
from finepoint.debugger.recorder import Recorder
from finepoint.debugger.recording import Recording
from finepoint.debugger.selection import Selection
from finepoint.debugger.writing import RecordingWriter
from reporting import Goal, parser, report

# The debugger may take so much of a job's time.
TARGET_PERCENT = 3.0
SIZE_TARGET_MB = 50.0
SAVED_STEPS = 1000
# How long a turn is, or one step where that is longer.
TURN_SECONDS = 0.5


@dataclass(frozen=True)
class Workload:
    """Something that is trained."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    steps: int
    rounds: int


def small_cnn() -> nn.Module:
    """Return a CNN of three convolutions for 32 x 32 images."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))


def workloads(quick: bool) -> list[Workload]:
    """Return what is measured."""
    resnet = torchvision.models.resnet50
    return [
        Workload("resnet50, batch 8 of 224 px", resnet, (8, 3, 224, 224), 1000, 4 if quick else 30, 2 if quick else 3),
        Workload(
            "small CNN, batch 64 of 32 px", small_cnn, (64, 3, 32, 32), 10, 60 if quick else 300, 3 if quick else 5
        ),
        Workload(
            "head on features, batch 64",
            lambda: nn.Linear(1280, 100),
            (64, 1280),
            100,
            1000 if quick else 12000,
            3 if quick else 5,
        ),
    ]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, labels: Any, steps: int) -> float:
    """Take steps; return the seconds."""
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    return time.perf_counter() - began


def measure(workload: Workload, folder: Path) -> dict[str, Any]:
    """Return a row: the time of a step without and with the recorder, and the overhead.

    The same model is trained by turns of half a second without and with the recorder, in changing order, so that what
    else the machine does falls on both alike; attaching and closing count. As about half of the time that passes is
    not the recorder's, its budget is half of what it would be.
    """
    torch.manual_seed(0)
    batch, labels = torch.randn(workload.shape), torch.randint(0, workload.classes, (workload.shape[0],))
    model = workload.model()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    train(model, optimizer, batch, labels, 2)
    block = max(1, round(2 * TURN_SECONDS / train(model, optimizer, batch, labels, 2)))
    rows = []
    hook = saved = 0.0
    for number in range(workload.rounds):
        plain = watched = 0.0
        began = time.perf_counter()
        recorder = start(folder / f"{number}", Budget(BUDGET / 2))
        watched += time.perf_counter() - began
        for turn, first in enumerate(range(0, workload.steps, block)):
            steps = min(block, workload.steps - first)
            for recording in (True, False) if turn % 2 else (False, True):
                switch(recorder, recording)
                seconds = train(model, optimizer, batch, labels, steps)
                plain, watched = (plain, watched + seconds) if recording else (plain + seconds, watched)
        switch(recorder, True)
        began = time.perf_counter()
        recorder.close()
        watched += time.perf_counter() - began
        rows.append((plain, watched))
        hook += recorder.budget.spent
        saved += len(Recording.open(folder / f"{number}").series("input").steps)
    ratios = sorted(watched / plain for plain, watched in rows)
    return {
        "workload": workload.name,
        "steps": workload.steps,
        "rounds": workload.rounds,
        "ms a step": round(1000 * statistics.median(plain for plain, _ in rows) / workload.steps, 3),
        "with": round(1000 * statistics.median(watched for _, watched in rows) / workload.steps, 3),
        "overhead %": round(100 * (statistics.median(ratios) - 1), 2),
        "of the rounds": " ".join(f"{100 * (ratio - 1):.1f}" for ratio in ratios),
        "hook's own %": round(100 * hook / sum(watched for _, watched in rows), 2),
        "saved steps": round(saved / workload.rounds, 1),
    }


def switch(recorder: Recorder, on: bool) -> None:
    """Have the recorder see what happens, or nothing; what it has put to sleep itself stays asleep."""
    asleep = () if recorder._awake else tuple(map(id, recorder._sleeping))
    for subscription in (*recorder._subscriptions, *recorder._modules, *recorder._calls):
        if id(subscription) not in asleep:
            subscription.resume() if on else subscription.pause()


def start(folder: Path, budget: Budget) -> Recorder:
    """Return a recorder as the attached debugger makes it, which finds the model by itself."""
    selection = Selection(CollectionManager(), budget=budget)
    recorder = Recorder(RecordingWriter(folder), selection, discover=True)
    observe(recorder)
    return recorder


def recording_megabytes(folder: Path, steps: int) -> float:
    """Return the size of a recording of a ResNet-50 with so many saved steps, scaled from a tenth of them.

    The values that a saved step has do not depend on the images' size; small images make the steps short.
    """
    measured = steps // 10
    model = torchvision.models.resnet50(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    recorder = start(folder, Budget(share=1e9))
    train(model, optimizer, torch.randn(2, 3, 32, 32), torch.randint(0, 10, (2,)), measured)
    recorder.close()
    saved = len(Recording.open(folder).series("input").steps)
    return sum(path.stat().st_size for path in folder.rglob("rank*/*")) / 1e6 * steps / saved


def main() -> None:
    """Run the benchmark."""
    flags = parser(__doc__ or "")
    flags.add_argument("--only", default="", help="only workloads with this in their name; `size` for the recording's")
    arguments = flags.parse_args()
    chosen = [item for item in workloads(arguments.quick) if arguments.only in item.name]
    if arguments.only == "size":
        chosen = []
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(item, Path(folder) / str(number)) for number, item in enumerate(chosen)]
        size = None
        if arguments.only in ("", "size"):
            measured = SAVED_STEPS // 5 if arguments.quick else SAVED_STEPS
            size = recording_megabytes(Path(folder) / "size", measured) * SAVED_STEPS / measured
    goals = [
        Goal(f"{row['workload']}: {TARGET_PERCENT:g} % less overhead", TARGET_PERCENT - row["overhead %"], 0)
        for row in rows
    ]
    notes = "The overhead is the median ratio of paired trainings; 'hook's own' is what the hook measures."
    if size is not None:
        rows.append({**dict.fromkeys(rows[0] if rows else ("workload",), ""), "workload": f"recording: {size:.1f} MB"})
        goals.append(
            Goal(f"{SIZE_TARGET_MB:g} MB less a ResNet-50's {SAVED_STEPS} saved steps", SIZE_TARGET_MB - size, 0)
        )
    report("The debugger's cost", rows, goals, as_json=arguments.json, notes=notes)


if __name__ == "__main__":
    main()
