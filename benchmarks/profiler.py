"""What profiling costs outside of the torch.profiler window, and whether its phases are those that py-spy sees.

    python benchmarks/profiler.py [--only cost|phases] [--py-spy PATH] [--quick] [--json]

Cost: in one process, some seconds of steps with the profiler and some without it alternate, in epochs of CIFAR-10's
length (see `added`). The loop computes in one thread, so that it does not wait for a core; what the sampler beside it
takes of the machine's cores is counted and added.
Phases: py-spy samples the stacks of three scripts a hundred times a second while they are profiled. Both count the
same time: the main thread's, from the first batch that is asked for to the process's end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from bottleneck_script import convolutions
from bottlenecks import SCRIPT, make_images
from finepoint.profiler.attachment import StepRecorder
from finepoint.profiler.loading import LoadingRecorder
from finepoint.profiler.recording import open_recording
from finepoint.profiler.running import profiler_environment
from finepoint.profiler.sampler import SYSTEM
from finepoint.profiler.sampling import sampled
from finepoint.profiler.segments import read_table
from reporting import Goal, parser, report

# The first of these is not counted; it goes to caches, and to the one look at the network that a job is given.
SETTLE_SECONDS, BLOCK_SECONDS = 0.5, 6.0
IMAGES, BATCH = 50_000, 16
# Whether steps were passed over before one and after it, to what that makes of it.
PASSING = {(False, False): "watched", (False, True): "begins", (True, True): "passed", (True, False): "ends"}
# What was done with a step, to how long all such steps took, each in units of what `arithmetic` took beside it.
Durations = dict[str, list[float]]
PHASED = ("no_workers", "slow_python", "checkpoints")
# A function of a stack, by name and file, to the phase that it means; the outermost that is known decides.
FRAMES = (
    ("__next__", "dataloader.py", "data_wait"),
    ("__iter__", "dataloader.py", "data_wait"),
    ("backward", "autograd", "backward"),
    ("save", "serialization.py", "checkpoint"),
    ("step", "optim", "optimizer"),
    ("_call_impl", "module.py", "forward"),
)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument(
        "--py-spy", default=shutil.which("py-spy"), help="its executable; by default the one on PATH"
    )
    arguments.add_argument("--only", choices=("cost", "phases"), help="one of the two parts")
    given = arguments.parse_args()
    networks = {} if given.only == "phases" else NETWORKS
    rows = [cost(name, make, 3 if given.quick else 20) for name, make in networks.items()]
    goals = [Goal(f"speed with the profiler, {row['what']}", 1 - row["value"], 0.99) for row in rows]
    if given.only == "cost":
        pass
    elif given.py_spy:
        with tempfile.TemporaryDirectory() as name:
            make_images(Path(name))
            phases = [against_py_spy(plant, Path(name), given.py_spy, 1.0 if given.quick else 4.0) for plant in PHASED]
        rows += phases
        goals += [Goal(f"3 points less the largest difference, {row['what']}", 3 - row["value"], 0) for row in phases]
    else:
        print("py-spy is not on PATH; its comparison is left out", file=sys.stderr)
    report("The profiler", rows, goals, as_json=given.json)


def cost(name: str, make: Callable[[], nn.Module], rounds: int) -> dict[str, Any]:
    """Return the share that profiling adds to a step, and the sampler's."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    loader = DataLoader(TensorDataset(torch.rand(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 10), BATCH)
    model, criterion = make(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    arithmetic = Arithmetic()

    def train(recorder: StepRecorder | None = None) -> Durations:
        """Return how long each step of a block took, loading included, by what was done with it."""
        durations: Durations = defaultdict(list)
        first = time.perf_counter() + SETTLE_SECONDS
        beside, passed, before = arithmetic(), False, time.perf_counter()
        for images, labels in loader:
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            was_passed, passed = passed, recorder is not None and recorder.passing
            now = time.perf_counter()
            was_beside, beside = beside, arithmetic()
            if now >= first:
                kind = PASSING[was_passed, passed] if recorder else "plain"
                durations[kind].append(2 * (now - before) / (was_beside + beside))
            if now >= first + BLOCK_SECONDS:
                break
            before = time.perf_counter()
        return durations

    train()
    measured = []
    with tempfile.TemporaryDirectory() as folder, sampled(Path(folder), os.getpid()) as sampler:
        while not (Path(folder) / "sampler.json").is_file():
            time.sleep(0.05)
        for number in range(rounds):
            both: Durations = {}
            # Which of the two comes first alternates, so that a drift of the machine favours neither.
            for profiled in (True, False) if number % 2 else (False, True):
                with attached(Path(folder)) if profiled else nullcontext() as recorder:
                    both |= train(recorder)
            measured.append(both)
        sampler.ended(0)
        samples = read_table(Path(folder) / SYSTEM)
    spent, wall = (samples[name][-1] - samples[name][0] for name in ("sampler_cpu_seconds", "time"))
    beside = float(spent / wall) / (os.cpu_count() or 1)
    random = Random(0)
    drawn = sorted(added(random.choices(measured, k=rounds)) for _ in range(200))
    return {
        "what": name,
        "value": round(added(measured) + beside, 4),
        "unit": f"share added, of it {100 * beside:.2f} % of the machine by the sampler",
        "spread": f"{100 * drawn[5]:.2f} to {100 * drawn[-6]:.2f} % in the loop ({rounds} rounds, 95 %)",
    }


class Arithmetic:
    """Half a millisecond of the same work each time: what it takes tells how fast the machine is at that moment."""

    def __init__(self) -> None:
        self._images = torch.rand(BATCH, 3 * 32 * 32)
        self._weights = [torch.rand(outputs, inputs, requires_grad=True) for inputs, outputs in ((3072, 64), (64, 10))]

    def __call__(self) -> float:
        """Do it, and return its seconds."""
        began = time.perf_counter()
        first, second = self._weights
        loss = functional.linear(functional.linear(self._images, first).relu(), second).sum()
        torch.autograd.grad(loss, self._weights)
        return time.perf_counter() - began


def added(rounds: Sequence[Durations]) -> float:
    """Return the share that profiling adds to a step of these rounds.

    Steps that were passed over are compared with those without the profiler, median with median, and the few that were
    watched, or where one goes over into the other, mean with mean, for some of these have more to do than others. They
    count by how many there were.

    >>> added([{"plain": [1.0] * 40, "passed": [1.01] * 30, "watched": [1.1, 1.0] * 5}])
    0.02
    """
    together: Durations = defaultdict(list)
    for durations in rounds:
        for kind, took in durations.items():
            together[kind] += took
    plain = together.pop("plain")
    steps = sum(map(len, together.values()))
    extra = 0.0
    for kind, took in together.items():
        typical = np.median if kind == "passed" else np.mean
        extra += len(took) / steps * float(typical(took) - typical(plain))
    return round(extra / float(np.median(plain)), 6)


@contextmanager
def attached(folder: Path) -> Iterator[StepRecorder]:
    """Watch steps and loading as in a profiled job, outside of the window."""
    loading = LoadingRecorder(folder)
    loading.install()
    recorder = StepRecorder(folder, loading)
    recorder.subscribe(cuda=False)
    try:
        # Stretches that are passed over grow for some seconds; it is as in a job that has run for longer.
        recorder.clock.stretches = 100
        yield recorder
    finally:
        recorder.close()
        loading.remove()


NETWORKS = {
    "an MLP of three layers": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 32 * 32, 64), nn.ReLU(), nn.Linear(64, 10)
    ),
    "a small convolution network": lambda: convolutions(24),
}


def against_py_spy(plant: str, folder: Path, py_spy: str, scale: float) -> dict[str, Any]:
    """Return the largest difference of a phase's share, in percentage points, between ours and py-spy's."""
    with tempfile.TemporaryDirectory(dir=folder) as job:
        output, stacks = Path(job) / "profiler-output", Path(job) / "stacks.json"
        command = [sys.executable, str(SCRIPT), plant, "--folder", str(folder), "--scale", str(scale)]
        subprocess.run(
            [
                py_spy,
                "record",
                "--idle",
                "--format",
                "speedscope",
                "--rate",
                "100",
                "--output",
                str(stacks),
                "--",
                *command,
            ],
            # A core is left to py-spy: where it has to wait for one, it looks when the script computes least.
            env=profiler_environment(output) | {"OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
        ours = open_recording(Path(job)).phases()
        theirs = phases_of_stacks(main_thread(json.loads(stacks.read_text())))
    differences = {name: 100 * (ours[name] - theirs.get(name, 0.0)) for name in ours}
    worst = max(differences, key=lambda name: abs(differences[name]))
    return {
        "what": plant,
        "value": round(abs(differences[worst]), 2),
        "unit": "points apart at most",
        "spread": f"{worst}: {100 * ours[worst]:.1f} % and {100 * theirs.get(worst, 0.0):.1f} %",
    }


def main_thread(profile: dict[str, Any]) -> list[tuple[list[tuple[str, str]], float]]:
    """Return the main thread's stacks in order, outermost frame first, each with its weight, of a speedscope file."""
    frames = [(frame["name"], frame.get("file") or "") for frame in profile["shared"]["frames"]]
    # py-spy learns a thread's name late; only the main one's stacks begin with a module.
    return [
        ([frames[index] for index in stack], weight)
        for thread in profile["profiles"]
        for stack, weight in zip(thread["samples"], thread["weights"], strict=True)
        if stack and frames[stack[0]][0] == "<module>"
    ]


def phases_of_stacks(stacks: list[tuple[list[tuple[str, str]], float]]) -> dict[str, float]:
    """Return the share of each phase among the stacks from the first batch that is asked for.

    >>> loader = [("train", "a.py"), ("__next__", "torch/utils/data/dataloader.py")]
    >>> adam = [("train", "a.py"), ("step", "torch/optim/adam.py")]
    >>> phases_of_stacks([([("train", "a.py")], 5.0), (loader, 1.0), (adam, 3.0)])
    {'data_wait': 0.25, 'optimizer': 0.75}
    """
    weights: Counter[str] = Counter()
    for stack, weight in stacks:
        phase = _phase(stack)
        if weights or phase == "data_wait":
            weights[phase] += weight  # type: ignore[assignment]
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _phase(frames: list[tuple[str, str]]) -> str:
    # From outside: what a data loader calls is loading, whatever it is.
    for function, place in frames:
        name = function.rpartition(".")[2]  # py-spy names the class too
        for known, file, phase in FRAMES:
            if name == known and file in place:
                return phase
    return "other"


if __name__ == "__main__":
    main()
