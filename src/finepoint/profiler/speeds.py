"""How fast this machine computes a network's layers in one format and another, measured and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finepoint.files import cache_dir, digest_of, read_json, write_json

_ROUNDS = 5
# Measuring a network's layers takes about so long at most; kinds that are left then are taken to be as those before.
_SECONDS = 6.0


def speeds_of(network: Mapping[str, Any], *, threads: int | None = None) -> dict[str, float]:
    """Return how fast this machine computes a network's heaviest layers, and convolutions by themselves.

    Measuring takes a few seconds; it is kept for this machine, torch, and these layers.

    Args:
        network: a network's facts, as a recording has them.
        threads: that the job computed with; by default as many as torch takes.

    Returns:
        `gflops` of float32; `seconds` that the layers measured need for a call of the network (and its backward, where
        they are trained) as the job computed them; `channels_last` and `bf16`, how many times faster they are so.
    """
    import torch

    device = network["device"]
    machine = {"torch": torch.__version__, "threads": threads, "machine": _model(), "device": device}
    used = {name: network.get(name) for name in ("autocast", "channels_last", "dtype", "layers")}
    with _threads(threads):
        return _kept(machine, lambda: {"gflops": _gflops(device)}) | _kept(machine | used, lambda: _formats(network))


def _kept(key: Mapping[str, Any], measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what was measured before, or measure it."""
    path = cache_dir() / "machine" / f"speeds-{digest_of(key)[:16]}.json"
    if not path.is_file():
        write_json(path, measure())
    kept: dict[str, float] = read_json(path)
    return kept


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gflops(device: str) -> float:
    """Return the speed of a residual stage, the usual thing of a convolution network, forward and backward."""
    stage: dict[str, Any] = {"class": "Conv2d", "sizes": [64, 64, 3, 1, 1, 1, 1], "input": [8, 64, 56, 56]}
    stage |= {"norm": True, "bias": False, "frozen": False, "count": 1}
    # Two operations a weight and output; backward is twice a forward.
    operations = 2 * 3 * 8 * 64 * 64 * 9 * 56 * 56
    return round(operations / _seconds(_step(stage, device, channels_last=False, autocast=False)) / 1e9, 2)


def _formats(network: Mapping[str, Any]) -> dict[str, float]:
    if network["dtype"] != "float32":
        return {}
    used = {"channels_last": bool(network["channels_last"]), "autocast": bool(network["autocast"])}
    formats = {"used": used, "channels_last": {**used, "channels_last": True}, "bf16": {**used, "autocast": True}}
    formats = {name: given for name, given in formats.items() if name == "used" or given != used}
    seconds = dict.fromkeys(formats, 0.0)
    began = time.perf_counter()
    for layer in network.get("layers") or ():
        if time.perf_counter() - began > _SECONDS:
            break
        try:
            found = {name: _seconds(_step(layer, network["device"], **given)) for name, given in formats.items()}
        except RuntimeError:  # a subclass that pads by itself, or more memory than is left
            continue
        for name, took in found.items():
            seconds[name] += layer["count"] * took
    if not seconds["used"]:
        return {}
    ratios = {name: round(seconds["used"] / took, 3) for name, took in seconds.items() if name != "used"}
    return ratios | {"seconds": seconds["used"]}


def _step(layer: Mapping[str, Any], device: str, *, channels_last: bool, autocast: bool) -> Callable[[], None]:
    """Return the work of a layer, with the norm and the activation that follow it."""
    import torch
    from torch import nn

    kind = getattr(nn, layer["class"])
    made: list[nn.Module] = [kind(*_sizes(layer["sizes"]), bias=layer["bias"])]
    if layer["norm"]:
        made.append(nn.BatchNorm2d(layer["sizes"][1]))
    block = nn.Sequential(*made, nn.ReLU()).to(device).requires_grad_(not layer["frozen"])
    images = torch.rand(*layer["input"], device=device)
    if channels_last and images.ndim == 4:
        block, images = block.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    # Images themselves get no gradient.
    images.requires_grad_(not layer["frozen"] and layer["sizes"][0] > 4)

    def once() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            output = block(images)
        if output.requires_grad:
            output.backward(output.detach())
        if device == "cuda":
            torch.cuda.synchronize()

    return once


def _sizes(sizes: list[Any]) -> list[Any]:
    return [tuple(size) if isinstance(size, list) else size for size in sizes]


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
