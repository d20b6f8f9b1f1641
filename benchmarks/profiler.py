"""What profiling costs outside of the torch.profiler window, and whether its phases are those that py-spy sees.

    python benchmarks/profiler.py [--only cost|phases] [--py-spy PATH] [--quick] [--json]

Cost: steps of a training with the profiler and without it alternate, drawn by lot (see `profiling_cost.py`); what the
sampler beside it takes of the machine's cores is counted and added.
Phases: py-spy samples the stacks of three scripts a hundred times a second while they are profiled. Both count the
same time: the main thread's, from the first batch that is asked for to the process's end.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bottlenecks import SCRIPT, make_images
from finepoint.profiler.recording import open_recording
from finepoint.profiler.running import profiler_environment
from profiling_cost import NETWORKS, cost
from reporting import Goal, parser, report

PHASED = ("no_workers", "slow_python", "checkpoints")
# A function of a stack, by name and file, to the phase that it means; the outermost that is known decides.
FRAMES = (
    ("__next__", "dataloader.py", "data_wait"),
    ("__iter__", "dataloader.py", "data_wait"),
    ("backward", "autograd", "backward"),
    ("save", "serialization.py", "checkpoint"),
    ("step", "optim", "optimizer"),
    ("_call_impl", "module.py", "forward"),
    ("cross_entropy", "functional.py", "forward"),
)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument(
        "--py-spy", default=shutil.which("py-spy"), help="its executable; by default the one on PATH"
    )
    arguments.add_argument("--only", choices=("cost", "phases"), help="one of the two parts")
    given = arguments.parse_args()
    rows = [] if given.only == "phases" else [cost(name, 10 if given.quick else 90) for name in NETWORKS]
    goals = [Goal(f"speed with the profiler, {row['what']}", 1 - row["value"], 0.99) for row in rows]
    if given.only == "cost":
        pass
    elif given.py_spy:
        with tempfile.TemporaryDirectory() as name:
            make_images(Path(name))
            phases = [against_py_spy(plant, Path(name), given.py_spy, 1.0 if given.quick else 12.0) for plant in PHASED]
        rows += phases
        goals += [Goal(f"3 points less the largest difference, {row['what']}", 3 - row["value"], 0) for row in phases]
    else:
        print("py-spy is not on PATH; its comparison is left out", file=sys.stderr)
    report("The profiler", rows, goals, as_json=given.json)


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
