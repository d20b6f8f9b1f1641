"""A check of the NVIDIA part, to be run by hand on a machine that has a GPU: `finepoint doctor --gpu`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finepoint.profiler.nvml import Ask, DeviceReader, NvmlError, nvml_driver, recorded, write_session

_IDLE_SAMPLES, _LOAD_SAMPLES = 5, 10
_SECONDS = 0.3
_SESSION = "nvml-session.jsonl"


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at.

    Args:
        name: what.
        passed: whether it is as it must be.
        detail: what was seen.
    """

    name: str
    passed: bool
    detail: str


def check_gpu(
    folder: Path,
    *,
    driver: Callable[[], Any] = nvml_driver,
    load: Callable[[], Any] | None = None,
    pause: float = _SECONDS,
) -> list[Checked]:
    """Sample the devices idle and under load, and record the session of NVML answers in `folder`.

    The session has the form of the fixture that tests play back, and can take its place.

    Args:
        folder: where `nvml-session.jsonl` goes.
        driver: gives what asks NVML, as a context manager.
        load: keeps device 0 busy while it is open, as a context manager; by default torch's matrix products.
        pause: seconds between two samples.
    """
    answers: list[dict[str, Any]] = []
    try:
        with driver() as ask:
            checks = _check(recorded(ask, answers), load or matrix_products, pause)
    except NvmlError as error:
        return [Checked("driver", False, f"no NVIDIA driver can be asked: {error}")]
    path = folder / _SESSION
    write_session(path, answers)
    return [*checks, Checked("session", bool(answers), f"{len(answers)} answers in {path}")]


@contextmanager
def matrix_products() -> Iterator[str]:
    """Keep CUDA device 0 busy with matrix products from another thread.

    Raises:
        RuntimeError: torch sees no CUDA device.
    """
    import threading

    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device; install a build of torch with CUDA")
    ended = threading.Event()

    def work() -> None:
        matrix = torch.rand(4096, 4096, device="cuda")
        while not ended.is_set():
            for _ in range(20):
                matrix = torch.tanh(matrix @ matrix)
            torch.cuda.synchronize()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield torch.cuda.get_device_name(0)
    finally:
        ended.set()
        thread.join()


def _check(ask: Ask, load: Callable[[], Any], pause: float) -> list[Checked]:
    reader = DeviceReader(ask)
    devices = reader.describe()
    names = ", ".join(str(device["name"]) for device in devices)
    checks = [Checked("devices", bool(devices), f"{reader.count}: {names}")]
    if not devices:
        return checks
    idle = _samples(reader, _IDLE_SAMPLES, pause)
    try:
        with load() as name:
            checks.append(Checked("torch", True, f"computes on {name}"))
            time.sleep(pause)
            busy = _samples(reader, _LOAD_SAMPLES, pause)
    except RuntimeError as error:
        return [*checks, Checked("torch", False, str(error))]
    for column, text, unit in (
        ("utilisation", "utilisation rises", ""),
        ("memory_bytes", "memory rises", " bytes"),
        ("power_watts", "power rises", " W"),
    ):
        before, after = _most(idle, column), _most(busy, column)
        if before is None or after is None:
            checks.append(Checked(text, column == "power_watts", "the device does not say"))
        else:
            checks.append(Checked(text, after > before, f"{before:g}{unit} idle, {after:g}{unit} under load"))
    shares = [row["gpu/0/utilisation"] for row in busy if "gpu/0/utilisation" in row]
    checks.append(
        Checked("shares lie between 0 and 1", all(0 <= share <= 1 for share in shares), f"{len(shares)} seen")
    )
    return checks


def _samples(reader: DeviceReader, count: int, pause: float) -> list[dict[str, float]]:
    rows = []
    for _ in range(count):
        rows.append(reader.read())
        time.sleep(pause)
    return rows


def _most(rows: list[dict[str, float]], column: str) -> float | None:
    return max((row[f"gpu/0/{column}"] for row in rows if f"gpu/0/{column}" in row), default=None)
