"""How much faster this machine computes a convolution in channels_last or bfloat16, measured once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from finepoint.files import cache_dir, digest_of, read_json, write_json

_ROUNDS = 5


def machine_speeds(*, device: str = "cpu") -> dict[str, float]:
    """Return `channels_last` and `bf16`, ratios to float32 with channels first, and that one's `gflops`.

    Measuring takes about two seconds.

    The ratio is of forward and backward of a small residual stage, the usual thing of a convolution network, on all
    cores; it is kept for this machine and torch.
    """
    import torch

    path = _kept(torch.__version__, torch.get_num_threads(), device)
    if path.is_file():
        kept: dict[str, float] = read_json(path)
        return kept
    speeds = _measure(device)
    write_json(path, speeds)
    return speeds


def _kept(version: str, threads: int, device: str) -> Path:
    import platform

    key = {"torch": version, "threads": threads, "device": device, "machine": platform.processor(), "cpu": _model()}
    return cache_dir() / "machine" / f"speeds-{digest_of(key)[:16]}.json"


def _measure(device: str) -> dict[str, float]:
    import torch
    from torch import nn

    network = nn.Sequential(
        *(layer for _ in range(2) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()))
    ).to(device)
    images = torch.rand(8, 64, 56, 56, device=device)

    def step(inputs: torch.Tensor, autocast: bool) -> Callable[[], None]:
        def once() -> None:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
                torch.autograd.backward(network(inputs).float().mean())
            if device == "cuda":
                torch.cuda.synchronize()

        return once

    plain = _seconds(step(images, False))
    half = _seconds(step(images, True))
    network.to(memory_format=torch.channels_last)
    last = _seconds(step(images.to(memory_format=torch.channels_last), False))
    # Two convolutions of 64 x 64 x 9 on 8 images of 56 x 56, two operations each; backward is twice a forward.
    operations = 2 * 2 * 3 * 8 * 64 * 64 * 9 * 56 * 56
    return {
        "channels_last": round(plain / last, 3),
        "bf16": round(plain / half, 3),
        "gflops": round(operations / plain / 1e9, 2),
    }


def _seconds(work: Callable[[], None]) -> float:
    work()
    found = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
