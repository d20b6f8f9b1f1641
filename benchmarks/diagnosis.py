"""Whether the debugger's rules tell the truth: every fault that they name, put into five healthy training scripts.

Each run is recorded and judged by every rule, at the end and as far as it was at the end of its first epoch. Thresholds
were set on one half of the catalogue (by a hash of the run's name); the figures are those of the other.

`--quick` takes one run of each fault and one healthy run of each script, about a tenth.

    python benchmarks/diagnosis.py [--quick] [--json] [--half report|set|both] [--first-seed N] [--only NAME ...]
        [--verbose]
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finepoint.debugger.rules.base import all_rules
from finepoint.debugger.rules.checking import check_recording
from finepoint.debugger.rules.result import RuleResult
from reporting import Goal, parser, report
from scripts.fault import Fault
from scripts.faults import FAULTS
from scripts.healthy import SCRIPTS, SETTINGS, pretrained
from scripts.serving import SERVING, write_serving_script
from scripts.watching import watch

SEEDS = 3
# Rules that judge only what they are told to look at; every run is judged by them with these.
ASKED: dict[str, dict[str, Any]] = {
    "AllZero": {"collection_names": "weights"},
    "UnchangedTensor": {"collection_names": "weights"},
    "TensorVariance": {"collection_names": "weights", "max_threshold": 1.0},
    "CheckInputImages": {"threshold_samples": 400},
    "Confusion": {},
}

# They state what is so of what the user chose: tensors that are zero, unchanged, of large variance, not centred or not
# another run's; a class taken for another; a head that is not the serving script's. Said of another fault's run it is
# true there, and no diagnosis. Healthy runs count for them as for all.
STATES_A_FACT = (
    "AllZero",
    "CheckInputImages",
    "Confusion",
    "SimilarAcrossRuns",
    "TensorVariance",
    "TrainServeSkew",
    "UnchangedTensor",
)


@dataclass(frozen=True)
class Run:
    """A script with a setting and a seed, and what is wrong with it: a fault, or nothing."""

    script: str
    setting: int
    seed: int
    fault: str = ""

    @property
    def name(self) -> str:
        """Its name, which decides the half of the catalogue that it belongs to."""
        return f"{self.script}/{self.setting}/{self.seed}/{self.fault or 'healthy'}"

    @property
    def digest(self) -> bytes:
        """A hash of its name."""
        return hashlib.sha256(self.name.encode()).digest()

    @property
    def half(self) -> str:
        """`set` for the half on which thresholds were set, `report` for the other."""
        return "set" if self.digest[0] % 2 else "report"


@dataclass
class Outcome:
    """What the rules said of a run."""

    run: Run
    fired: dict[str, int]
    early: set[str]
    failed: dict[str, str]
    accuracy: float
    error: str
    details: dict[str, str] = field(default_factory=dict)
    steps_an_epoch: int = 0


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--half", choices=("report", "set", "both"), default="report", help="of the catalogue")
    arguments.add_argument("--only", nargs="*", default=[], help="faults, rules or scripts")
    arguments.add_argument("--verbose", action="store_true", help="list every miss and every wrong finding")
    arguments.add_argument("--first-seed", type=int, default=0, help="of three; others than 0 nobody has looked at")
    given = arguments.parse_args()
    began = time.perf_counter()
    runs = list(_catalogue(given.quick, given.half, given.only, given.first_seed))
    torch.set_num_threads(1)
    if not runs:
        raise SystemExit("no run of that name is in this half of the catalogue; --half both looks in both")
    if any(run.script == "frozen_resnet" for run in runs):
        with contextlib.redirect_stdout(sys.stderr):
            pretrained()  # before the workers are forked, which inherit it
    outcomes = _run_all(runs)
    if given.verbose:
        _list(outcomes)
    rows, goals = _judge(outcomes)
    notes = (
        f"{len(runs)} runs ({sum(not run.fault for run in runs)} healthy), half: {given.half}; "
        f"{time.perf_counter() - began:.0f} s. wrong: fired on (healthy runs, others' faults)."
    )
    report("Faults put into healthy scripts", rows, goals, as_json=given.json, notes=notes)


def _catalogue(quick: bool, half: str, only: Sequence[str], first_seed: int = 0) -> Iterator[Run]:
    seeds = range(first_seed, first_seed + SEEDS)
    healthy = [
        Run(script, setting, seed) for script in SCRIPTS for seed in seeds for setting in range(len(SETTINGS[script]))
    ]
    faulty = [
        Run(script, seed % len(SETTINGS[script]), seed, fault.name)
        for fault in (*FAULTS, *SERVING)
        for script in fault.scripts
        for seed in seeds
    ]
    chosen = [run for run in (*healthy, *faulty) if half in ("both", run.half)]
    if quick:
        # One run of each fault, and one healthy one of each script: the first by hash.
        firsts: dict[str, Run] = {}
        for run in sorted(chosen, key=lambda run: run.digest):
            firsts.setdefault(run.fault or run.script, run)
        chosen = list(firsts.values())
    for run in chosen:
        known = {run.script, run.fault or "healthy", *([_fault(run.fault).rule] if run.fault else [])}
        if not only or known & set(only):
            yield run


def _fault(name: str) -> Fault:
    return next(fault for fault in (*FAULTS, *SERVING) if fault.name == name)


def _run_all(runs: Sequence[Run]) -> list[Outcome]:
    workers = min(len(os.sched_getaffinity(0)), len(runs)) or 1
    outcomes = []
    # Long ones first, so that no worker is left alone with one at the end.
    ordered = sorted(
        runs, key=lambda run: (run.fault not in ("few_images", "forty_epochs"), run.script != "frozen_resnet")
    )
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for outcome in pool.imap_unordered(_run, ordered):
            outcomes.append(outcome)
            if sys.stderr.isatty() or len(outcomes) % 50 == 0:
                print(f"\r{len(outcomes)} of {len(runs)} runs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return sorted(outcomes, key=lambda outcome: outcome.run.name)


def _run(run: Run) -> Outcome:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = dict(ASKED)
        make = SCRIPTS[run.script]
        settings = dict(SETTINGS[run.script][run.setting])
        fault = _fault(run.fault) if run.fault else None
        if (fault is not None and fault.rule == "SimilarAcrossRuns") or (not run.fault and run.setting == 0):
            watch(make(run.seed, **settings), folder / "other")
            parameters["SimilarAcrossRuns"] = {"other_trial": str(folder / "other")}
        activation = settings.get("activation", torch.nn.ReLU).__name__
        script = write_serving_script(folder, run.script, run.fault, f"nn.{activation}")
        parameters["TrainServeSkew"] = {"inference_script": str(script)}
        parts = make(run.seed, **settings)
        if fault is not None:
            fault.put(parts)
        watched = watch(parts)
        results = check_recording(watched.whole, parameters=parameters)
        early = check_recording(watched.first_epoch, parameters=parameters)
    return Outcome(
        run,
        {result.rule: result.first_step or 0 for result in results if result.fired},
        {result.rule for result in early if result.fired},
        {result.rule: result.reason for result in (*results, *early) if result.status == "Error"},
        watched.accuracy,
        watched.error,
        {result.rule: _detail(result) for result in (*early, *results)},
    )


def _detail(result: RuleResult) -> str:
    shown = {name: value for name, value in result.evidence.items() if name != "series"}
    return f"{result.status} at {result.first_step}: {result.meaning}{result.reason} {shown}"


def _judge(outcomes: Sequence[Outcome]) -> tuple[list[dict[str, Any]], list[Goal]]:
    rows = []
    healthy = [outcome for outcome in outcomes if not outcome.run.fault]
    total = dict.fromkeys(("caught", "of", "early", "soon", "wrong"), 0)
    for rule in all_rules():
        own = [item for item in outcomes if item.run.fault and _fault(item.run.fault).rule == rule]
        others = [
            item
            for item in outcomes
            if item.run.fault
            and rule not in (_fault(item.run.fault).rule, *_fault(item.run.fault).also, *STATES_A_FACT)
        ]
        caught = [item for item in own if rule in item.fired]
        soon = [item for item in caught if not _fault(item.run.fault).later]
        early = [item for item in soon if rule in item.early]
        wrong = [item for item in healthy if rule in item.fired or rule in item.early]
        total["caught"] += len(caught)
        total["of"] += len(own)
        total["soon"] += len(soon)
        total["early"] += len(early)
        total["wrong"] += len(wrong)
        rows.append(
            {
                "rule": rule,
                "caught": f"{len(caught)}/{len(own)}",
                "missed": len(own) - len(caught),
                "in first epoch": f"{len(early)}/{len(soon)}" if soon else "later",
                "first step": _median([item.fired[rule] for item in caught]),
                "wrong, healthy": f"{len(wrong)}/{len(healthy)}",
                "wrong, others' faults": f"{sum(rule in item.fired for item in others)}/{len(others)}",
            }
        )
    judged = max(1, len(healthy) * len(rows))
    goals = [
        Goal("faults caught, percent", 100 * total["caught"] / max(1, total["of"]), 95),
        Goal("healthy run x rule left alone, percent", 100 - 100 * total["wrong"] / judged, 99),
        Goal("named within the first epoch, percent", 100 * total["early"] / max(1, total["soon"]), 90),
    ]
    return rows, goals


def _median(steps: Sequence[int]) -> str:
    return f"{statistics.median(steps):.0f}" if steps else "-"


def _list(outcomes: Sequence[Outcome]) -> None:
    for item in outcomes:
        fault = _fault(item.run.fault) if item.run.fault else None
        expected = {fault.rule, *fault.also, *STATES_A_FACT} if fault else set()
        lines = [f"error {rule}: {why}" for rule, why in item.failed.items()]
        if fault and fault.rule not in item.fired:
            lines.append(f"missed {fault.rule}: {item.details.get(fault.rule)}")
        elif fault and not fault.later and fault.rule not in item.early:
            lines.append(f"late {fault.rule}: {item.details.get(fault.rule)}")
        lines += [
            f"wrong {rule}{'' if rule in item.fired else ' (early only)'}: {item.details.get(rule)}"
            for rule in sorted((set(item.fired) | item.early) - expected)
        ]
        if lines:
            print(f"{item.run.name}  accuracy {item.accuracy:.2f} {item.error}", file=sys.stderr)
            for line in lines:
                print(f"    {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
