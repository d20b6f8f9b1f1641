"""Making a package folder from what training left."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import finepoint
from finepoint.files import sha256_of, write_bytes, write_json
from finepoint.models.backbones import Backbone, weights_path
from finepoint.models.choice import Choice
from finepoint.models.graphs import HeadLayers, backbone_graph, compose
from finepoint.models.package import DESCRIPTION, GRAPH, SCHEMA_VERSION
from finepoint.models.unknown import REFERENCE

# How far two ways of computing the same logits may lie apart, by the precision of the arithmetic.
TOLERANCES = {"f32": 1e-3, "bf16": 0.25}
# What code/ needs of finepoint: the classifier and the modules it imports, as they are here.
_MODULES = (
    "errors.py",
    "files.py",
    "data/__init__.py",
    "data/decoding.py",
    "data/extracting.py",
    "data/preprocessing.py",
    "models/__init__.py",
    "models/classifier.py",
    "models/package.py",
    "models/runtimes.py",
    "models/answers.py",
    "models/unknown.py",
)
_REQUIREMENTS = ("numpy", "openvino", "pillow", "safetensors", "simplejpeg")


@dataclass(frozen=True)
class Reference:
    """What the images trained on were like, as the package keeps it.

    Args:
        description: the `unknown` object of `finepoint.json`.
        arrays: the tensors of `reference.safetensors`, by name.
    """

    description: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def build_package(
    folder: Path,
    *,
    backbones: Sequence[Backbone],
    choices: Sequence[Choice],
    head: HeadLayers,
    classes: Sequence[str],
    temperature: float,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Write a package folder and return its description (`finepoint.json`).

    Args:
        folder: where; what is in it is replaced.
        backbones: in the order in which their features are joined.
        choices: the runtime and precision that each was trained on.
        head: maps the joined features to logits.
        classes: the class names, in the order of the logits.
        temperature: what logits are divided by before the softmax.
        metrics: of validation, by name.
        provenance: hyperparameters, seed, data fingerprint and counts.
        reference: what the images trained on were like, so that strange ones are told.
    """
    shutil.rmtree(folder, ignore_errors=True)
    graphs = [backbone_graph(backbone) for backbone in backbones]
    graph = compose(graphs, head, f"finepoint {finepoint.__version__}")
    write_bytes(folder / GRAPH, graph)
    for index, backbone in enumerate(backbones):
        target = folder / "backbones" / f"{index}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights_path(backbone), target)
    write_bytes(folder / "head.safetensors", _head_bytes(head))
    if reference is not None:
        write_bytes(folder / REFERENCE, tensor_bytes(reference.arrays))
    _write_code(folder / "code")
    inputs, outputs = _names(graph)
    precision = "bf16" if any(choice.precision == "bf16" for choice in choices) else "f32"
    runtimes = [_portable(choice.runtime) for choice in choices]
    description = {
        "schema_version": SCHEMA_VERSION,
        "handler": "builtin",
        "classes": list(classes),
        "temperature": temperature,
        "backbones": [
            {**backbone.to_json(), "runtime": choice.runtime, "precision": choice.precision}
            for backbone, choice in zip(backbones, choices, strict=True)
        ],
        "head": {"layers": [list(weight.shape) for weight, _ in head.layers]},
        "graph": {
            "file": GRAPH,
            "sha256": sha256_of(folder / GRAPH),
            "inputs": inputs,
            "outputs": outputs,
            "runtime": runtimes[0],
            "precision": precision,
            "logit_tolerance": TOLERANCES[precision],
        },
        "unknown": dict(reference.description) if reference is not None else None,
        "metrics": {"valid": dict(metrics), "test": None},
        "provenance": dict(provenance),
        "versions": versions(),
    }
    write_json(folder / DESCRIPTION, description)
    return description


def add_test_metrics(folder: Path, test: Mapping[str, Any]) -> None:
    """Write the test metrics into a package folder's description."""
    path = folder / DESCRIPTION
    description = json.loads(path.read_text())
    description["metrics"]["test"] = dict(test)
    write_json(path, description)


def read_head(folder: Path) -> HeadLayers:
    """Return the head of a package folder."""
    from safetensors.numpy import load_file

    arrays = load_file(folder / "head.safetensors")
    count = sum(name.endswith(".weight") for name in arrays)
    layers = tuple((arrays[f"{index}.weight"], arrays[f"{index}.bias"]) for index in range(count))
    return HeadLayers(arrays["shift"], arrays["scale"], layers)


def versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    import platform

    names = (
        "torch",
        "torchvision",
        "timm",
        "openvino",
        "onnx",
        "onnxruntime",
        "optuna",
        "numpy",
        "pillow",
        "simplejpeg",
    )
    found = {"finepoint": finepoint.__version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _head_bytes(head: HeadLayers) -> bytes:
    arrays: dict[str, np.ndarray] = {"shift": head.shift, "scale": head.scale}
    for index, (weight, bias) in enumerate(head.layers):
        arrays |= {f"{index}.weight": weight, f"{index}.bias": bias}
    return tensor_bytes(arrays)


def tensor_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as a safetensors file; the same ones give the same bytes."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}))


def _write_code(folder: Path) -> None:
    source = Path(finepoint.__file__).parent
    for name in _MODULES:
        write_bytes(folder / "finepoint" / name, (source / name).read_bytes())
    write_bytes(folder / "finepoint" / "__init__.py", f'__version__ = "{finepoint.__version__}"\n'.encode())
    write_bytes(folder / "inference.py", (source / "models" / "container_handler.py").read_bytes())
    pinned = "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in _REQUIREMENTS)
    write_bytes(folder / "requirements.txt", pinned.encode())


def _names(graph: bytes) -> tuple[list[str], list[str]]:
    import onnx

    model = onnx.load_from_string(graph)
    return [value.name for value in model.graph.input], [value.name for value in model.graph.output]


def _portable(runtime: str) -> str:
    """Return what runs the exported graph where features were computed by `runtime`."""
    return runtime if runtime in ("openvino", "onnxruntime") else "openvino"
