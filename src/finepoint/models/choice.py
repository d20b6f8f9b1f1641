"""Which runtime computes features on this machine: the one measured fastest, and the measurement, kept in the cache."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.errors import ConfigurationError
from finepoint.files import cache_dir, digest_of, read_json, write_json
from finepoint.models.backbones import Backbone
from finepoint.models.graphs import backbone_graph
from finepoint.models.runtimes import (
    OnnxRuntime,
    OpenVinoRuntime,
    Runtime,
    TorchRuntime,
    cores,
    cpu_has_bf16,
)

BATCH = 8
_SECONDS = 0.2
_ROUNDS = 4
# A challenger must be clearly faster than the default, so that noise does not change the choice, and with it the
# last bits of every result.
_MARGIN = 1.25


@dataclass(frozen=True, slots=True)
class Choice:
    """The runtime chosen for a backbone on this machine.

    Args:
        runtime: `openvino`, `onnxruntime`, `cuda` or `mps`.
        precision: `f32` or `bf16`.
        reason: why, in a sentence.
        images_per_second: of each candidate that was measured, on made-up images.
    """

    runtime: str
    precision: str
    reason: str
    images_per_second: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return asdict(self)


def choose_runtime(backbone: Backbone, *, runtime: str = "auto", precision: str = "auto") -> Choice:
    """Return the runtime to compute this backbone's features with.

    Args:
        backbone: a resolved backbone.
        runtime: `auto`, or one of `candidates()` without its precision.
        precision: `auto`, `f32` or `bf16`.

    Raises:
        ConfigurationError: nothing here fits what was asked for.
    """
    names = [
        name
        for name in candidates()
        if runtime in ("auto", name.split("/")[0]) and precision in ("auto", name.split("/")[1])
    ]
    if not names:
        raise ConfigurationError(
            f"no runtime here is {runtime} with precision {precision}; there are {', '.join(candidates())}"
        )
    if len(names) == 1:
        name, _, chosen = names[0].partition("/")
        why = "asked for" if (runtime, precision) != ("auto", "auto") else "the only one installed"
        return Choice(name, chosen, why, {})
    path = cache_dir() / "machine" / f"{_machine_key(backbone, names)}.json"
    if path.is_file():
        return Choice(**read_json(path))
    choice = _measure(backbone, names)
    write_json(path, choice.to_json())
    return choice


def candidates() -> list[str]:
    """Return the runtimes usable here as `name/precision`, the default first."""
    found = []
    if importlib.util.find_spec("openvino"):
        found.append("openvino/f32")
        if cpu_has_bf16():
            found.append("openvino/bf16")
    if importlib.util.find_spec("onnxruntime"):
        found.append("onnxruntime/f32")
    found += [f"{device}/f32" for device in accelerators()]
    return found


def accelerators() -> list[str]:
    """Return the GPU kinds that torch can use here: `cuda`, `mps`."""
    if not importlib.util.find_spec("torch") or not _may_have_accelerator():
        return []
    import torch

    found = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def open_runtime(backbone: Backbone, choice: Choice, *, throughput: bool = True) -> Runtime:
    """Return the chosen runtime with the backbone loaded, for a stream (or, without throughput, single calls)."""
    if choice.runtime in ("cuda", "mps"):
        return TorchRuntime(backbone, choice.runtime)
    graph = backbone_graph(backbone)
    if choice.runtime == "openvino":
        return OpenVinoRuntime(graph, choice.precision, throughput=throughput)
    return OnnxRuntime(graph)


def _measure(backbone: Backbone, names: list[str]) -> Choice:
    opened = {name: open_runtime(backbone, _chosen(name, "", {})) for name in names}
    speeds = dict.fromkeys(names, 0.0)
    # In turn, and the best of each: what else the machine does meanwhile must not decide.
    for _ in range(_ROUNDS):
        for name, runtime in opened.items():
            speeds[name] = max(speeds[name], round(images_per_second(runtime, backbone), 1))
    best = names[0]
    for name in names[1:]:
        if speeds[name] > speeds[best] * _MARGIN:
            best = name
    listed = ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items())
    why = "measured fastest here" if speeds[best] == max(speeds.values()) else "the default; nothing is clearly faster"
    return _chosen(best, f"{why} (images per second: {listed})", speeds)


def _chosen(name: str, reason: str, speeds: dict[str, float]) -> Choice:
    runtime, _, precision = name.partition("/")
    return Choice(runtime, precision, reason, speeds)


def images_per_second(runtime: Runtime, backbone: Backbone, seconds: float = _SECONDS) -> float:
    """Return how many made-up images a second a runtime embeds, decoding not counted."""
    shape = (BATCH, backbone.preprocessing.height, backbone.preprocessing.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in runtime.stream([(None, [images])] * 2, ["features"]):
        pass  # warm-up
    rounds = 2
    while True:
        start = time.perf_counter()
        _run(runtime, images, rounds)
        spent = time.perf_counter() - start
        if spent >= seconds:
            return BATCH * rounds / spent
        rounds *= 2


def _run(runtime: Runtime, images: np.ndarray, rounds: int) -> None:
    for _ in runtime.stream(((None, [images]) for _ in range(rounds)), ["features"]):
        pass


def _machine_key(backbone: Backbone, names: list[str]) -> str:
    versions = {
        name: importlib.metadata.version(name)
        for name in ("openvino", "onnxruntime", "torch")
        if importlib.util.find_spec(name)
    }
    return digest_of(
        {
            "architecture": f"{backbone.library}/{backbone.architecture}",
            "side": [backbone.preprocessing.height, backbone.preprocessing.width],
            "candidates": names,
            "cores": cores(),
            "processor": _processor(),
            "versions": versions,
        }
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return digest_of({"flags": line})
    return platform.processor() or platform.machine()


def _may_have_accelerator() -> bool:
    """Return whether it is worth importing torch (seconds) to ask for a GPU."""
    import ctypes.util

    return platform.system() == "Darwin" or bool(
        Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists() or ctypes.util.find_library("nvcuda")
    )
