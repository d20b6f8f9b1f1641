"""Scripts with one planted bottleneck each: is it named first, and does the advice give what was predicted?

    python benchmarks/bottlenecks.py [--only PLANT...] [--rounds N] [--attempts N] [--quick] [--json]

A gain is the median of several pairs of runs that follow each other, with the bottleneck and without it. The
machine's own speed may change between them; so seconds are counted in what the same arithmetic takes right before and
after a run.

On a machine that others use, their load is a bottleneck too, and BusyNeighbour says so, rightly. So a case that saw
others at work is run again, up to three times. Where they stay, `others` says how many cores they kept busy,
BusyNeighbour is left aside where it was not planted, and no gain is measured, which they would decide as much.

Where the processor is faster in bfloat16, scripts that gain by it compute in it, but for the one that has that planted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bottleneck_script import convolutions
from finepoint.profiler.finishing import finish
from finepoint.profiler.prediction import neighbour_cores
from finepoint.profiler.running import profile_script
from finepoint.results import RuleResult
from reporting import Goal, parser, report

SCRIPT = Path(__file__).parent / "bottleneck_script.py"
# Others that keep more than so many cores busy change what is measured.
OTHERS = 0.25
# Of 255, the standard deviation of what a sensor adds.
GRAIN = 5.0
CPU_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Case:
    """A planted bottleneck.

    Args:
        plant: the function of the script.
        rules: that name it rightly; none for a healthy script.
        change: the key of the finding's change whose value the advised script takes.
        predicted: whether the rule predicts a gain that can be measured here.
    """

    plant: str
    rules: tuple[str, ...] = ()
    change: str = ""
    predicted: bool = True


CASES = (
    Case("no_workers", ("DataLoaderWorkers",), "num_workers"),
    Case("sleep", ("DataLoaderWorkers",), "num_workers"),
    Case("slow_decode", ("DecodeBound",)),
    Case("huge_images", ("Oversized",), "image_side"),
    Case("png", ("SlowImageFormat",)),
    Case("many_workers", ("DataLoaderWorkers",), "num_workers"),
    Case("slow_python", ("SlowPython",)),
    Case("leak", ("MemoryLeak",), predicted=False),
    Case("tiny_batch", ("TinyBatch",), "batch_size"),
    Case("checkpoints", ("CheckpointTooOften",), "save_every"),
    Case("neighbour", ("BusyNeighbour",), predicted=False),
    Case("throttled", ("Throttled",)),
    Case("many_threads", ("ThreadOversubscription",), "threads", predicted=False),
    Case("frozen", ("RecomputedFeatures",)),
    Case("sync", ("FrequentSync",)),
    Case("evaluation", ("EvaluationShare",)),
    Case("float32", ("Precision",)),
    Case("healthy_convolutions"),
    Case("healthy_tensors"),
    Case("healthy_transformer"),
)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--only", nargs="*", help="plants to run")
    arguments.add_argument("--rounds", type=int, default=3, help="runs of a case before and after the advice")
    arguments.add_argument("--attempts", type=int, default=3, help="runs of a case to find one without others")
    given = arguments.parse_args()
    cases = [case for case in CASES if not given.only or case.plant in given.only]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder)
        for case in cases:
            row = run_case(case, folder, 0.5 if given.quick else 1.0, given.rounds, given.attempts)
            if row is not None:
                rows.append(row)
                print(row, file=sys.stderr)
    planted = [row for row in rows if row["rule"]]
    healthy = [row for row in rows if not row["rule"]]
    judged = [row for row in planted if row["ratio"] is not None and row["others"] <= OTHERS]
    goals = []
    if planted:
        goals.append(Goal("right finding on top, share", _share(row["right"] for row in planted), 0.95))
    if healthy:
        goals.append(Goal("healthy scripts without a finding, share", _share(not row["found"] for row in healthy), 1.0))
    if judged:
        within = _share(abs(row["ratio"] - 1) <= 0.25 for row in judged)
        goals.append(Goal("measured gain within 25 % of the prediction, share", within, 0.8))
    report("Planted bottlenecks", rows, goals, as_json=given.json, notes=NOTES)


NOTES = (
    "measured: seconds of the loop before, by those after the advice, counted in what arithmetic takes beside it, the "
    "median of the pairs of runs (gains). ratio: measured by predicted gain. Synchronising at every step is planted "
    "only where there is a GPU: elsewhere it costs nothing."
)


@cache
def bf16_gains() -> bool:
    """Return whether this machine trains a small convolution network at least a quarter faster in bfloat16."""
    network, images = convolutions(24), torch.rand(32, 3, 32, 32).to(memory_format=torch.channels_last)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(20):
        for enabled, found in seconds.items():
            began = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                network(images).float().mean().backward()
            found.append(time.perf_counter() - began)
    return min(seconds[False]) > 1.25 * min(seconds[True])


def arithmetic_seconds() -> float:
    """Return what the same arithmetic takes at this moment, in seconds."""
    network, images = convolutions(24), torch.rand(32, 3, 32, 32).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(60):
        began = time.perf_counter()
        network(images).mean().backward()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def run_case(case: Case, folder: Path, scale: float, rounds: int, attempts: int) -> dict[str, Any] | None:
    if case.plant == "float32" and not bf16_gains():
        print("float32: this processor is no faster in bfloat16; left out", file=sys.stderr)
        return None
    if case.plant == "sync" and not torch.cuda.is_available():
        print("sync: without a GPU it costs nothing; left out", file=sys.stderr)
        return None
    attempts = 1 if case.plant == "neighbour" else attempts
    planted = _run_planted(case, folder, scale, attempts)
    if planted is None:
        print(f"{case.plant}: no writable control group for the processor here; left out", file=sys.stderr)
        return None
    row: dict[str, Any] = {
        "plant": case.plant,
        "rule": case.rules[0] if case.rules else "",
        "found": ", ".join(result.rule for result in planted.findings),
        "right": planted.findings[0].rule in case.rules if planted.findings else not case.rules,
        "predicted": None,
        "measured": None,
        "ratio": None,
        "others": round(planted.others, 1),
    }
    if not (case.rules and row["right"]) or (planted.others > OTHERS and case.plant != "neighbour"):
        return row
    value = (planted.findings[0].evidence["change"] or {}).get(case.change, 0)
    before, after = [planted], [_run_advised(case, value, folder, scale, attempts)]
    for _ in range(rounds - 1):
        # The other order each time, so that a drift of the machine favours neither.
        if len(before) % 2:
            after.append(_run_advised(case, value, folder, scale, attempts))
        again = _run_planted(case, folder, scale, attempts)
        assert again is not None, "the first could be made"
        before.append(again)
        if len(after) < len(before):
            after.append(_run_advised(case, value, folder, scale, attempts))
    row["others"] = round(float(np.median([run.others for run in before + after])), 1)
    gains = [one.work / other.work for one, other in zip(before, after, strict=True)]
    measured = float(np.median(gains))
    row["measured"], row["gains"] = round(measured, 2), " ".join(f"{gain:.2f}" for gain in gains)
    promised = [run.promise(case.rules) for run in before]
    if case.predicted and all(promised):
        row["predicted"] = round(float(np.median([value for value in promised if value])), 2)
        row["ratio"] = round(measured / row["predicted"], 2)
    return row


@dataclass(frozen=True)
class Run:
    """A case's run.

    Args:
        findings: the most promising first; BusyNeighbour is left out where it is not planted.
        work: the seconds of its loop, counted in what arithmetic took beside it.
        others: cores that others kept busy meanwhile.
    """

    findings: list[RuleResult]
    work: float
    others: float

    def promise(self, rules: tuple[str, ...]) -> float | None:
        """Return the gain that one of the rules predicts; None where none does."""
        found = [result.evidence["predicted_speedup"] for result in self.findings if result.rule in rules]
        return float(found[0]) if found and found[0] else None


def _run_planted(case: Case, folder: Path, scale: float, attempts: int) -> Run | None:
    with cpu_limit(case.plant == "throttled") as environment, neighbours(2 if case.plant == "neighbour" else 0):
        return None if environment is None else _run_alone(case, [], folder, scale, environment, attempts)


def _run_advised(case: Case, value: int, folder: Path, scale: float, attempts: int) -> Run:
    return _run_alone(case, ["--advised", "--value", str(value)], folder, scale, dict(os.environ), attempts)


def _run_alone(
    case: Case, more: list[str], folder: Path, scale: float, environment: dict[str, str], attempts: int
) -> Run:
    """Return a run of a case, if may be one without others."""
    best: Run | None = None
    for _ in range(attempts):
        run = _run(case.plant, more, folder, scale, environment)
        if best is None or run.others < best.others:
            best = run
        if run.others <= OTHERS:
            break
    assert best is not None
    return best


def _run(plant: str, more: list[str], folder: Path, scale: float, environment: dict[str, str]) -> Run:
    with tempfile.TemporaryDirectory(dir=folder) as job:
        command = [str(SCRIPT), plant, *more, "--folder", str(folder), "--scale", str(scale)]
        command += ["--bf16"] if bf16_gains() else []
        beside = [arithmetic_seconds()]
        done = profile_script(command, Path(job), interval_ms=100, environment=environment, quiet=True)
        beside.append(arithmetic_seconds())
        if done.exit_code:
            raise SystemExit((Path(job) / "logs.txt").read_text())
        judged = finish(Path(job))
        recording = judged.recording
        others = neighbour_cores(recording.during_loop(), len(recording.system.named("core/")))
    findings = [result for result in judged.findings if result.rule != "BusyNeighbour" or plant == "neighbour"]
    return Run(findings, recording.loop_seconds / float(np.mean(beside)), others)


def _share(values: Iterator[bool]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def make_images(folder: Path) -> None:
    """Write noise with a photograph's spectrum and grain, in several sizes as JPEG, and one as PNG too.

    Without grain a JPEG is decoded in half the time that a photograph takes, and a PNG in more than it takes.
    """
    for name, count, (width, height), suffix in (
        ("photos", 40, (400, 533), "jpg"),
        ("large", 24, (800, 800), "jpg"),
        ("jpg", 24, (640, 640), "jpg"),
        ("png", 24, (640, 640), "png"),
        ("huge", 16, (2000, 1500), "jpg"),
    ):
        (folder / name).mkdir()
        for number in range(count):
            generator = np.random.default_rng(number)
            picture = np.full((height, width, 3), 128.0, np.float32)
            for power in range(2, 8):
                layer = np.clip(generator.normal(128, 90 / power, (2**power, 2**power, 3)), 0, 255).astype(np.uint8)
                scaled = Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC)
                picture += np.asarray(scaled, np.float32) - 128
            picture += GRAIN * generator.standard_normal((height, width, 1), np.float32)
            image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
            image.save(folder / name / f"{number:03d}.{suffix}", quality=88)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep so many cores busy meanwhile."""
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


@contextmanager
def cpu_limit(wanted: bool) -> Iterator[dict[str, str] | None]:
    """Yield an environment that names a control group of 0.7 cores; None where none can be made."""
    if not wanted:
        yield dict(os.environ)
        return
    second = (CPU_GROUPS / "cgroup.controllers").is_file()
    group = (CPU_GROUPS if second else CPU_GROUPS / "cpu") / f"finepoint-benchmark-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        if second:
            (group / "cpu.max").write_text("70000 100000")
        else:
            (group / "cpu.cfs_quota_us").write_text("70000")
    except OSError:  # of version 2, groups have the processor only where the one above gives it on
        group.rmdir()
        yield None
        return
    try:
        yield {**os.environ, "BENCHMARK_CPU_GROUP": str(group)}
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
