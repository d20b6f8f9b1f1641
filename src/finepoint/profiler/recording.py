"""What the profiler recorded of a job, as rules, summary and report read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.errors import NotFoundError
from finepoint.files import read_json
from finepoint.profiler.context import PARTS
from finepoint.profiler.phases import PHASES, STARTUP_PHASES, Mode
from finepoint.profiler.segments import Table, read_table

OUTPUT = "profiler-output"


@dataclass(frozen=True)
class ProfilerRecording:
    """A job's recording. Tests make one by hand; `open_recording` reads one.

    Args:
        system: a row per sample of the machine and the job's processes together.
        processes: a row per sample and process.
        steps: a row per step of the job's main process; see `finepoint.profiler.phases`.
        loading: what data loading was made of, of every process that loads.
        sampler: interval, cores, limits, devices.
        ending: how the job ended; None while it runs, or where nobody saw.
        facts: of the main process: threads, loaders, networks.
        operators: of the torch.profiler window; None without one.
        speeds: of this machine with the network's layers, where measured; see `finepoint.profiler.speeds.speeds_of`.
        price_per_hour: of the machine; None where it is not given.
    """

    system: Table = field(default_factory=Table)
    processes: Table = field(default_factory=Table)
    steps: Table = field(default_factory=Table)
    loading: Table = field(default_factory=Table)
    sampler: Mapping[str, Any] = field(default_factory=dict)
    ending: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    operators: Mapping[str, Any] | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)
    price_per_hour: float | None = None

    @property
    def interval_ms(self) -> int:
        """Between two samples."""
        return int(self.sampler.get("interval_ms", 500))

    @property
    def cores(self) -> float:
        """How many cores the job may use: those that it may run on, or fewer where its control group limits it."""
        usable = float(self.sampler.get("usable_cores") or 1)
        limit = self.sampler.get("cpu_limit_cores")
        return min(usable, limit) if limit else usable

    @property
    def memory_bytes(self) -> float:
        """How much memory the job may use."""
        total = float(self.sampler.get("memory_total_bytes") or 0)
        limit = self.sampler.get("memory_limit_bytes")
        return min(total, limit) if limit else total

    @property
    def gpus(self) -> int:
        """How many NVIDIA devices were seen."""
        return len(self.sampler.get("gpus", ()))

    @property
    def loop(self) -> Table:
        """The rows from the first batch or step on, without those under torch.profiler."""
        return self.steps.where((self.steps["mode"] != Mode.STARTUP) & ~(self.steps["window"] > 0))

    @property
    def training(self) -> Table:
        """The rows of training steps, without the first one, which is unlike the others, and the window."""
        rows = self.loop
        rows = rows.where(rows["mode"] == Mode.TRAIN)
        return rows.where(np.arange(len(rows)) > 0) if len(rows) > 1 else rows

    @property
    def loop_seconds(self) -> float:
        """How long the loop took."""
        return total(self.loop, "seconds")

    def phases(self) -> dict[str, float]:
        """Return the share of the loop's time of each phase; they add up to 1, or are empty without a loop.

        All of an evaluation batch is `evaluation`, its waiting for data and its forward too.
        """
        return _phases_of(self.loop)

    def within(self) -> dict[str, float]:
        """Return the shares of the loop's time that are known of what phases are made of.

        `decode` is the part of `data_wait` that was decoding images, as far as nothing hid it, `frozen_forward` the
        part of `forward` that frozen layers took.
        """
        phases = self.phases()
        if not phases:
            return {}
        fetched = total(self.loading, "seconds")
        decode = phases["data_wait"] * min(total(self.loading, "decode_seconds") / fetched, 1.0) if fetched else 0.0
        frozen = self.frozen_seconds() / self.loop_seconds
        return {"decode": decode, "frozen_forward": min(frozen, phases["forward"])}

    def frozen_seconds(self) -> float:
        """Return how long frozen layers computed in training: those of the network, or all that ran without grad."""
        rows, network = self.loop, self.network()
        rows = rows.where(rows["mode"] == Mode.TRAIN)
        share = float(network["frozen_share"]) if network is not None else 0.0
        return max(share * total(rows, "phase/forward"), total(rows, "frozen_forward"))

    def device_seconds(self) -> dict[str, float]:
        """Return the seconds that the GPU worked on each phase of the loop, by its own events; empty without one."""
        loop = self.loop
        return {name.removeprefix("gpu/"): total(loop, name) for name in loop.named("gpu/")}

    def parts(self) -> list[dict[str, Any]]:
        """Return what a run of ours was made of, in order: `name`, `seconds`, and `phases` as shares of them.

        Of a script there are none. Start-up, of each of the run's processes, is the first.
        """
        loop = self.loop
        found = [
            {"name": name, "seconds": total(rows, "seconds"), "phases": _phases_of(rows)}
            for number, name in enumerate(PARTS)
            if len(rows := loop.where(loop["part"] == number))
        ]
        started = sum(self.startup().values())
        return [{"name": "startup", "seconds": started, "phases": {}}, *found] if found and started else found

    def share(self, name: str) -> float:
        """Return the share of the loop's time that training spends in a phase, evaluation left out."""
        rows = self.loop
        whole = total(rows, "seconds")
        return total(rows.where(rows["mode"] != Mode.EVALUATION), f"phase/{name}") / whole if whole else 0.0

    def startup(self) -> dict[str, float]:
        """Return the seconds before the first batch or step, by what they went into."""
        rows = self.steps.where(self.steps["mode"] == Mode.STARTUP)
        if not len(rows):
            return {}
        seconds = {name: total(rows, f"phase/{name}") for name in STARTUP_PHASES}
        seconds["other"] += total(rows, "seconds") - sum(seconds.values())
        durations, first = step_seconds(self.training), self._first_step()
        if first is not None and len(durations) and not (self.steps["part"] >= 0).any():
            seconds["warm_up"] = max(first - float(np.median(durations)), 0.0)
        return seconds

    def loader(self, mode: Mode = Mode.TRAIN) -> Mapping[str, Any] | None:
        """Return the facts of the loader that most rows of a mode had their batches from."""
        rows = self.loop
        numbers = rows["loader"][rows["mode"] == mode]
        numbers = numbers[numbers >= 0]
        if not len(numbers):
            return None
        most = int(np.bincount(numbers.astype(int)).argmax())
        return next((loader for loader in self.facts.get("loaders", ()) if loader["number"] == most), None)

    def why_no_loader(self) -> str:
        """Return why no loader's facts are there."""
        if (self.steps["part"] >= 0).any():
            return (
                "finepoint's own runs decode in threads of their own and train on cached features, without a DataLoader"
            )
        return "no DataLoader was seen"

    def network(self) -> Mapping[str, Any] | None:
        """Return the facts of the network that takes longest."""
        networks = self.facts.get("networks") or ()
        return max(networks, key=lambda found: float(found["seconds"]), default=None)

    def during_loop(self) -> Table:
        """Return the samples of the machine that were taken while the loop ran; all where no loop was seen."""
        loop = self.loop
        if not len(loop):
            return self.system
        begin, end = loop["time"][0], loop["time"][-1] + loop["seconds"][-1]
        return self.system.where((self.system["time"] >= begin) & (self.system["time"] <= end))

    def _first_step(self) -> float | None:
        rows = self.loop
        rows = rows.where(rows["mode"] == Mode.TRAIN)
        return float(rows["seconds"][0] / max(rows["steps"][0], 1)) if len(rows) else None


def open_recording(job: Path, *, price_per_hour: float | None = None) -> ProfilerRecording:
    """Return the recording in a job's folder, or in its `profiler-output`; also of a job that runs or was killed.

    Raises:
        NotFoundError: there is none.
    """
    folder = job / OUTPUT if (job / OUTPUT).is_dir() else job
    if not (folder / "sampler.json").is_file() and not (folder / "steps").is_dir():
        raise NotFoundError(f"{job} holds no recording of the profiler; `finepoint profile run SCRIPT` makes one")
    steps = read_table(folder / "steps")
    if (steps["part"] >= 0).any():  # a run of ours: its processes work one after the other
        facts = _added([found for name, found in steps.notes.items() if name.startswith("facts/")])
    else:
        steps = _main_process(steps)
        facts = steps.notes.get(f"facts/{int(steps['pid'][0])}", {}) if len(steps) else {}
    return ProfilerRecording(
        system=read_table(folder / "system"),
        processes=read_table(folder / "processes"),
        steps=steps,
        loading=read_table(folder / "loading"),
        sampler=_json(folder / "sampler.json") or {},
        ending=_json(folder / "ending.json"),
        facts=facts,
        operators=_json(folder / "operators.json"),
        speeds=_json(folder / "speeds.json") or {},
        price_per_hour=price_per_hour,
    )


def total(rows: Table, name: str) -> float:
    """Return the sum of a column; 0 where nothing was written."""
    return float(np.nansum(rows[name])) if len(rows) else 0.0


def device_seconds(rows: Table) -> float:
    """Return the seconds that the GPU worked on phases of some rows, by its own events; 0 without one."""
    return sum(total(rows, name) for name in rows.named("gpu/"))


def step_seconds(rows: Table) -> np.ndarray:
    """Return the duration of each training step [steps]; micro-batches count with the step that they lead to.

    Steps that share a row are given its mean.
    """
    steps = np.nan_to_num(rows["steps"])
    done = np.concatenate([[0.0], np.cumsum(steps)[:-1]]) if len(steps) else steps
    durations = []
    for group in np.unique(done):
        members = done == group
        count = int(steps[members].sum())
        if count:
            durations.append(np.full(count, rows["seconds"][members].sum() / count))
    return np.concatenate(durations) if durations else np.zeros(0)


def _phases_of(rows: Table) -> dict[str, float]:
    whole = total(rows, "seconds")
    if not whole:
        return {}
    evaluating = rows["mode"] == Mode.EVALUATION
    rest = rows.where(~evaluating)
    seconds = {name: total(rest, f"phase/{name}") for name in PHASES}
    seconds["evaluation"] += total(rows.where(evaluating), "seconds")
    # What was entered before the loop began and left in it (an import, a load) is none of its phases.
    seconds["other"] += total(rest, "seconds") - sum(total(rest, f"phase/{name}") for name in PHASES)
    return {name: max(value, 0.0) / whole for name, value in seconds.items()}


def _added(facts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what observing cost in several processes together."""
    return {
        "moments": sum(found["moments"] for found in facts),
        "seconds_per_moment": max((found["seconds_per_moment"] for found in facts), default=0.0),
    }


def _main_process(steps: Table) -> Table:
    """Return the rows of one process: of rank 0, the one that trained longest."""
    if not len(steps):
        return steps
    first = steps.where(steps["rank"] == np.nanmin(steps["rank"]))
    pids = np.unique(first["pid"])

    def loop_and_whole(pid: float) -> tuple[float, float]:
        rows = first.where(first["pid"] == pid)
        return total(rows.where(rows["mode"] != Mode.STARTUP), "seconds"), total(rows, "seconds")

    # One that only starts others has no loop, and is there longest.
    return first.where(first["pid"] == max(pids, key=loop_and_whole))


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
