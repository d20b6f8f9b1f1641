"""How fast this machine computes a network's layers in one format and another, measured and kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finepoint.files import cache_dir, digest_of, read_json, write_json

_ROUNDS = 5
# Measuring a network's layers takes about so long at most; kinds that are left then are taken to be as those before.
_SECONDS = 6.0
# A layer is given no more numbers than these at the larger batch, which bounds memory (256 MiB of float32).
_LARGEST_INPUT = 2**26


def speeds_of(
    network: Mapping[str, Any], *, threads: int | None = None, batch: int = 0, larger: int = 0
) -> dict[str, float]:
    """Return how fast this machine computes a network's heaviest layers, and convolutions by themselves.

    Measuring takes a few seconds; it is kept for this machine, torch, and these layers.

    Args:
        network: a network's facts, as a recording has them.
        threads: that the job computed with; by default as many as torch takes.
        batch: images that a call of the network was given; with `larger`, layers are timed at that batch too.
        larger: a batch that may be advised.

    Returns:
        `gflops` of float32; `seconds` that the layers measured need for a call of the network (and its backward, where
        they are trained) as the job computed them; `channels_last` and `bf16`, how many times faster they are so;
        `larger_seconds`, what they need for `batch` images when these are part of the larger batch.
    """
    import torch

    device = network["device"]
    machine = {"torch": torch.__version__, "threads": threads, "machine": _model(), "device": device}
    used = {name: network.get(name) for name in ("autocast", "channels_last", "dtype", "layers")}
    with _threads(threads):
        found = _kept(machine, lambda: {"gflops": _gflops(device)}) | _kept(machine | used, lambda: _formats(network))
        if 0 < batch < larger:
            sizes = {"batch": batch, "larger": larger}
            found |= _kept(machine | used | sizes, lambda: _larger(network, larger / batch))
        return found


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
    used = _used(network)
    formats = {"used": used, "channels_last": {**used, "channels_last": True}, "bf16": {**used, "autocast": True}}
    formats = {name: given for name, given in formats.items() if name == "used" or given != used}
    seconds = _layer_seconds(
        network, lambda layer: {name: _step(layer, network["device"], **given) for name, given in formats.items()}
    )
    if not seconds.get("used"):
        return {}
    ratios = {name: round(seconds["used"] / took, 3) for name, took in seconds.items() if name != "used"}
    return ratios | {"seconds": seconds["used"]}


def _larger(network: Mapping[str, Any], times: float) -> dict[str, float]:
    """Return what the job's batch costs the layers as it is, and as a part of a batch so many times as large."""
    if network["dtype"] != "float32":
        return {}

    def works(layer: Mapping[str, Any]) -> dict[str, Callable[[], None]]:
        first, *rest = layer["input"]
        largest = max(_LARGEST_INPUT // max(math.prod(rest), 1), first)
        large = {**layer, "input": [min(round(first * times), largest), *rest]}
        return {
            "seconds": _step(layer, network["device"], **_used(network)),
            f"{large['input'][0] / first}": _step(large, network["device"], **_used(network)),
        }

    seconds = _layer_seconds(network, works)
    if not seconds:
        return {}
    shares = [took / float(name) for name, took in seconds.items() if name != "seconds"]
    return {"seconds": seconds["seconds"], "larger_seconds": sum(shares)}


def _used(network: Mapping[str, Any]) -> dict[str, bool]:
    return {"channels_last": bool(network["channels_last"]), "autocast": bool(network["autocast"])}


def _layer_seconds(
    network: Mapping[str, Any], works: Callable[[Mapping[str, Any]], dict[str, Callable[[], None]]]
) -> dict[str, float]:
    """Return the seconds that each of several ways to compute a layer takes for all of the network's layers."""
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    for layer in network.get("layers") or ():
        if time.perf_counter() - began > _SECONDS:
            break
        try:
            found = {name: _seconds(work) for name, work in works(layer).items()}
        except RuntimeError:  # a subclass that pads by itself, or more memory than is left
            continue
        for name, took in found.items():
            seconds[name] = seconds.get(name, 0.0) + layer["count"] * took
    return seconds


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
