"""A package's networks and head on a GPU, by torch, for machines that have both.

The graph's own runtimes compute on CPUs. Here the networks are built anew from the package's safetensors, as its
description names them, so that no other library is needed than the one that trained them (docs/decisions/037).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finepoint.errors import ConfigurationError, PackageError
from finepoint.models.architectures import GraphModule
from finepoint.models.backbones import Backbone
from finepoint.models.building import read_head
from finepoint.models.graphs import SLOPE, HeadLayers
from finepoint.models.runtimes import Outputs, Runtime
from finepoint.models.weights import load_network


class TorchPackage(Runtime):
    """A package computed by torch, with the graph's outputs.

    Args:
        folder: of the package.
        description: its `finepoint.json`.
        device: `cuda`, `mps`, or `cpu` (for comparison; the graph's runtimes are faster there).

    Raises:
        ConfigurationError: torch has no such device here.
        PackageError: the package's weights do not fit what it says of itself.
    """

    precision = "f32"

    def __init__(self, folder: Path, description: Mapping[str, Any], device: str) -> None:
        if not _is_there(device):
            raise ConfigurationError(f"torch {torch.__version__} finds no {device} device here; leave --runtime out")
        self.name, self.version = device, str(torch.__version__)
        backbones = [
            Backbone.from_json({key: one[key] for key in Backbone.__dataclass_fields__})
            for one in description["backbones"]
        ]
        try:
            module = _Package([_network(folder, place, one) for place, one in enumerate(backbones)], read_head(folder))
        except (OSError, RuntimeError, KeyError) as error:
            raise PackageError(f"{folder} cannot be computed by torch: {error}") from error
        self._module = module.eval().to(device)
        self._device = device

    def __call__(self, images: Sequence[np.ndarray], outputs: Sequence[str]) -> Outputs:
        batches = [torch.from_numpy(np.ascontiguousarray(batch)).to(self._device) for batch in images]
        # As it was evaluated: a GPU's own choice for convolutions would be TF32, with 10 bits.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = self._module(batches)
        return {name: found[name].cpu().numpy() for name in outputs}


class _Package(nn.Module):
    """Backbones side by side and the head on top, named as the graph's outputs are."""

    def __init__(self, backbones: Sequence[GraphModule], head: HeadLayers) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self.shift, self.scale = _kept(head.shift), _kept(head.scale)
        self.weights = nn.ParameterList(_kept(weight) for weight, _ in head.layers)
        self.biases = nn.ParameterList(_kept(bias) for _, bias in head.layers)

    def forward(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        features = []
        for place, (backbone, batch) in enumerate(zip(self.backbones, images, strict=True)):
            one, *maps = backbone(batch)
            features.append(one)
            name = f"feature_map_{place}" if len(images) > 1 else "feature_map"
            if maps:
                found[name] = maps[0]
        found["features"] = torch.cat(features, 1)
        values = (found["features"] - self.shift) * self.scale
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = nn.functional.leaky_relu(values, SLOPE) if index else values
            values = nn.functional.linear(values, weight, bias)
        return {**found, "logits": values}


def _network(folder: Path, place: int, backbone: Backbone) -> GraphModule:
    network = load_network(backbone, folder / "backbones" / f"{place}.safetensors")
    return GraphModule(network, backbone.preprocessing.mean, backbone.preprocessing.std)


def _kept(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(values.astype(np.float32)), requires_grad=False)


def _is_there(device: str) -> bool:
    if device == "mps":
        return torch.backends.mps.is_available()
    return device == "cpu" or torch.cuda.is_available()
