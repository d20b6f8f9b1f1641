"""What it costs a training to be profiled outside of the torch.profiler window; `profiler.py` prints it.

The machine's own speed changes by more than what is measured, within seconds. So steps are compared with those beside
them: while steps are passed over, about half of them, drawn by lot, have their batch from the iterator below ours,
which is all that is left of the profiler then (tests/profiler/test_passing.py checks that). The other steps, and what
lies between two epochs, are compared with these too.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import trim_mean
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bottleneck_script import convolutions
from finepoint.profiler.attachment import StepRecorder
from finepoint.profiler.loading import LoadingRecorder
from finepoint.profiler.sampler import SYSTEM
from finepoint.profiler.sampling import sampled
from finepoint.profiler.segments import read_table

# The first seconds are not counted; they go to caches, and to the one look at the network that a job is given.
SETTLE_SECONDS, SPAN_SECONDS = 2.0, 2.0
# Epochs of CIFAR-10's length.
IMAGES, BATCH = 50_000, 16
# So many of the last steps without the profiler are what one beside them is compared with.
NEAR = 100
# Of the differences between two steps that follow each other, those to leave out at each end: the system's doing.
TRIMMED = 0.1
# Whether steps were passed over before one and after it, to what that makes of it.
PASSING = {(False, False): "watched", (False, True): "begins", (True, True): "passed", (True, False): "ends"}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "an MLP of three layers": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 32 * 32, 64), nn.ReLU(), nn.Linear(64, 10)
    ),
    "a small convolution network": lambda: convolutions(24),
}


class Step(NamedTuple):
    """A step: its kind (`epochs` is the first of one, with what lies before it), whose batches, and its seconds."""

    kind: str
    below: bool
    seconds: float


@dataclass
class Span:
    """Some seconds of a training.

    Args:
        pairs: seconds of two steps that were passed over and followed each other: with a batch of our iterator, and
            with one from below.
        extra: by kind of the other steps, the seconds that they took more than those near them, together.
        steps: by kind, how many there were.
    """

    pairs: list[tuple[float, float]] = field(default_factory=list)
    extra: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)


def cost(name: str, seconds: float) -> dict[str, Any]:
    """Return the share that profiling adds to the training of a network for so many seconds, and the sampler's."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so that the loop does not wait for a core
    with tempfile.TemporaryDirectory() as folder, sampled(Path(folder), os.getpid()) as sampler:
        while not (Path(folder) / "sampler.json").is_file():
            time.sleep(0.05)
        with attached(Path(folder)) as recorder:
            spans = spans_of(steps(NETWORKS[name](), recorder), seconds)
        sampler.ended(0)
        samples = read_table(Path(folder) / SYSTEM)
    spent, wall = (samples[name][-1] - samples[name][0] for name in ("sampler_cpu_seconds", "time"))
    parts = {**added(spans), "sampler": float(spent / wall) / (os.cpu_count() or 1)}
    random = Random(0)
    drawn = sorted(sum(added(random.choices(spans, k=len(spans))).values()) for _ in range(200))
    return {
        "what": f"{name}, steps of {1000 * plain_seconds(spans):.1f} ms",
        "value": round(sum(parts.values()), 4),
        "unit": "share added; in %: " + ", ".join(f"{kind} {100 * share:.2f}" for kind, share in parts.items()),
        "spread": f"{100 * drawn[5]:.2f} to {100 * drawn[-6]:.2f} % in the loop (95 %)",
    }


@contextmanager
def attached(folder: Path) -> Iterator[StepRecorder]:
    """Watch steps and loading as in a profiled job, outside of the window."""
    loading = LoadingRecorder(folder)
    loading.install()
    recorder = StepRecorder(folder, loading)
    recorder.subscribe(cuda=False)
    recorder.seal_in_time()
    try:
        # Stretches that are passed over grow for some seconds; it is as in a job that has run for longer.
        recorder.clock.stretches = 100
        yield recorder
    finally:
        recorder.close()
        loading.remove()


def steps(model: nn.Module, recorder: StepRecorder) -> Iterator[Step]:
    """Train without end, and yield each step."""
    loader = DataLoader(TensorDataset(torch.rand(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 10), BATCH)
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.01)
    random, clock, restart = Random(0), time.perf_counter, 0.0
    before = clock()
    while True:
        batches: Any = iter(loader)
        for number in range(len(loader)):
            was_passed = recorder.passing
            below = was_passed and number > 0 and random.random() < 0.5
            images, labels = next(batches._batches if below else batches)
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            kind = PASSING[was_passed, recorder.passing] if number else "epochs"
            yield Step(kind, below, clock() - before - (0.0 if number else restart))
            before = clock()
        vars(DataLoader)["__iter__"].__wrapped__(loader)
        restart = clock() - before  # what making an iterator takes without us
        before = clock()
        next(batches, None)


def spans_of(steps: Iterator[Step], seconds: float) -> list[Span]:
    """Return spans of the steps that so many seconds have."""
    spans, near, last = list[Span](), deque[float](maxlen=NEAR), Step("", False, 0.0)
    began = time.perf_counter()
    for step in steps:
        elapsed = time.perf_counter() - began - SETTLE_SECONDS
        if elapsed > seconds:
            break
        if elapsed > SPAN_SECONDS * len(spans):
            spans.append(Span())
        if step.below:
            near.append(step.seconds)
        if spans and near:
            spans[-1].steps[step.kind] += 1
            if step.kind != "passed":
                spans[-1].extra[step.kind] += step.seconds - sum(near) / len(near)
            elif last.kind == "passed" and last.below != step.below:
                pair = (step, last) if last.below else (last, step)
                spans[-1].pairs.append((pair[0].seconds, pair[1].seconds))
                step = Step("", False, 0.0)  # each is in one pair only
        last = step
    return spans


def added(spans: Sequence[Span]) -> dict[str, float]:
    """Return the share that profiling adds to the steps of these spans, by kind of step.

    >>> one = Span([(1.01, 1.0)] * 40, Counter(watched=1.0), Counter(passed=80, watched=20))
    >>> {kind: round(share, 3) for kind, share in added([one]).items()}
    {'passed': 0.008, 'watched': 0.01}
    """
    counts, extra = Counter[str](), Counter[str]()
    for span in spans:
        counts.update(span.steps)
        extra.update(span.extra)
    ours, below = np.array([pair for span in spans for pair in span.pairs]).T
    whole = counts.total() * plain_seconds(spans)
    passed = counts["passed"] * float(trim_mean(ours - below, TRIMMED))
    return {kind: seconds / whole for kind, seconds in (("passed", passed), *sorted(extra.items()))}


def plain_seconds(spans: Sequence[Span]) -> float:
    """Return how long a step takes without the profiler."""
    return float(np.mean([below for span in spans for _, below in span.pairs]))
