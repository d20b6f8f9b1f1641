"""Recordings made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.files import write_json
from finepoint.profiler.attachment import StepRecorder
from finepoint.profiler.device_clock import DeviceClock
from finepoint.profiler.loading import LoadingRecorder
from finepoint.profiler.phases import Mode
from finepoint.profiler.recording import ProfilerRecording
from finepoint.profiler.segments import Table, TableWriter
from finepoint.profiler.window import Window

START = 1000.0
SAMPLER = {
    "interval_ms": 500,
    "usable_cores": 4,
    "cpu_limit_cores": None,
    "memory_total_bytes": 16 * 2**30,
    "memory_limit_bytes": None,
    "gpus": [],
}
NETWORK = {
    "class": "Net",
    "parameters": 100,
    "trainable": 100,
    "dtype": "float32",
    "device": "cpu",
    "autocast": False,
    "channels_last": True,
    "grad": True,
    "convolutions": 0,
    "frozen_share": 0.0,
    "seconds": 1.0,
    "flops": 0.0,
    "modules": [],
}


def loader(number: int = 0, **facts: Any) -> dict[str, Any]:
    return {
        "number": number,
        "workers": 0,
        "batch_size": 32,
        "batches": 10,
        "pin_memory": False,
        "persistent_workers": False,
        "dataset": "D",
        "shape": [32, 3, 224, 224],
        "dtype": "float32",
    } | facts


def step(
    mode: Mode = Mode.TRAIN, *, cpu: float | None = None, wait_cpu: float | None = None, **given: float
) -> dict[str, float]:
    """Return a row; phases by name are seconds, the rest counts."""
    phases = {
        name: value
        for name, value in given.items()
        if name not in ("loader", "saves", "syncs", "frozen_forward", "main_cpu", "sync_seconds", "gpu", "recorded")
    }
    seconds = sum(phases.values())
    trained = float(mode is Mode.TRAIN)
    wait = phases.get("data_wait", 0.0)
    return {
        "mode": float(mode),
        "seconds": seconds,
        "longest": seconds,
        "cpu": seconds if cpu is None else cpu,
        "main_cpu": given.get("main_cpu", seconds - wait),
        "data_wait_cpu": wait if wait_cpu is None else wait_cpu,
        "window": 0.0,
        "steps": trained,
        "backwards": trained,
        "forwards": float(mode in (Mode.TRAIN, Mode.EVALUATION)),
        "batches": float(mode in (Mode.TRAIN, Mode.EVALUATION)),
        "samples": 32.0,
        "loader": given.get("loader", 0.0),
        "saves": given.get("saves", 0.0),
        "recorded": given.get("recorded", 0.0),
        "syncs": given.get("syncs", 0.0),
        "frozen_forward": given.get("frozen_forward", 0.0),
        "sync/other": given.get("sync_seconds", 0.0),
        "pid": 1.0,
        "rank": 0.0,
        **({"gpu/forward": given["gpu"]} if "gpu" in given else {}),
        **{f"phase/{name}": value for name, value in phases.items()},
    }


def table(rows: Sequence[dict[str, float]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: np.array([row.get(name, np.nan) for row in rows]) for name in names})


def steps(rows: Sequence[dict[str, float]]) -> Table:
    """Return rows one after the other, after a second of start-up."""
    at = START + 1
    timed = [step(Mode.STARTUP, other=1.0) | {"time": START, "loader": -1.0, "steps": 0.0}]
    for row in rows:
        timed.append(row | {"time": at})
        at += row["seconds"]
    return table(timed)


def samples(count: int, *, seconds: float = 0.5, cores: int = 4, **columns: Any) -> Table:
    """Return samples of an idle machine but for the columns given, each a number or one for each sample."""
    plain = {
        "cpu": 0.1,
        "cpu_iowait": 0.0,
        "cpu_steal": 0.0,
        "job_cpu": 0.4,
        "job_rss_bytes": 1e9,
        "job_pss_bytes": 9e8,
        "job_main_rss_bytes": 1e9,
        "sampler_cpu_seconds": 0.0,
        "throttled_seconds": 0.0,
        "memory_used_bytes": 2e9,
        "memory_total_bytes": 16e9,
        "swap_used_bytes": 0.0,
        "network_received_bytes_per_second": 0.0,
        "network_sent_bytes_per_second": 0.0,
        **{f"core/{core}": 0.1 for core in range(cores)},
    } | columns
    times = START + seconds * np.arange(count)
    return Table(
        {"time": times, **{name: np.broadcast_to(value, count).astype(float) for name, value in plain.items()}}
    )


def recording(rows: Sequence[dict[str, float]] = (), system: Table | None = None, **given: Any) -> ProfilerRecording:
    facts = {"threads": 4, "cuda": False, "loaders": [loader()], "networks": [NETWORK], "moments": 0}
    facts |= given.pop("facts", {})
    sampler = SAMPLER | given.pop("sampler", {})
    return ProfilerRecording(
        system=samples(60) if system is None else system,
        steps=steps(rows) if rows else Table(),
        sampler=sampler,
        facts=facts if rows else {},
        **given,
    )


def job(folder: Path, made: ProfilerRecording) -> Path:
    """Write a recording into a job's folder as the sampler and the job's process would."""
    output = folder / "profiler-output"
    for name in ("system", "processes", "steps", "loading"):
        rows: Table = getattr(made, name)
        writer = TableWriter(output / name, "1", seal_seconds=3600)
        writer.append(
            *({column: values[index] for column, values in rows.columns.items()} for index in range(len(rows)))
        )
        if name == "steps":
            writer.note("facts/1", made.facts)
        writer.seal()
    write_json(output / "sampler.json", {"started_at": START, **made.sampler})
    if made.ending is not None:
        write_json(output / "ending.json", made.ending)
    if made.operators is not None:
        write_json(output / "operators.json", made.operators)
    return folder


@contextmanager
def watched(folder: Path, window: Window | None = None, *, device: DeviceClock | None = None) -> Iterator[StepRecorder]:
    """Record steps and loading while the block runs, into a job's folder."""
    loading = LoadingRecorder(folder / "profiler-output")
    loading.install()
    recorder = StepRecorder(folder / "profiler-output", loading, window, device=device)
    recorder.subscribe(cuda=False)
    try:
        yield recorder
    finally:
        recorder.close()
        loading.remove()
