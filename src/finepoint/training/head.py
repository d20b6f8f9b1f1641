"""The head: what is trained on a frozen backbone's features. Logits come out of it, never anything after them."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils import skip_init

from finepoint.models.graphs import SLOPE, HeadLayers
from finepoint.training.hyperparameters import Hyperparameters

# Features are scaled to this standard deviation, so that a learning rate means the same for every backbone.
# It is what EfficientNet-Lite0's features have on photographs; docs/decisions/003 has the comparison.
FEATURE_STD = 0.4


class Head(nn.Module):
    """A linear layer, or one hidden layer with leaky ReLU, on scaled features.

    Args:
        hyperparameters: `head`, `hidden` and `dropout` are used.
        classes: how many.
        scale: [d], by which features are multiplied.
        generator: of the initial weights and of dropout; no global random state is touched, so that trials can
            run side by side and still repeat.
    """

    def __init__(
        self, hyperparameters: Hyperparameters, classes: int, scale: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        widths = [scale.numel(), *([hyperparameters.hidden] if hyperparameters.head == "mlp" else []), classes]
        self.scale: Tensor
        self.register_buffer("scale", scale)
        self.layers = nn.ModuleList(_linear(a, b) for a, b in itertools.pairwise(widths))
        self._dropout = hyperparameters.dropout
        self._generator = generator
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            bound = layer.in_features**-0.5  # as torch initialises linear layers
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [n, classes] of features [n, d]."""
        values = features * self.scale
        for index, layer in enumerate(self.layers):
            if index:
                values = leaky_relu(values, SLOPE)
            values = layer(self._drop(values))
        return values

    def to_layers(self) -> HeadLayers:
        """Return the head as arrays, for export."""
        scale = self.get_buffer("scale").numpy().copy()
        layers = tuple(
            (layer.get_parameter("weight").detach().numpy().copy(), layer.get_parameter("bias").detach().numpy().copy())
            for layer in self.layers
        )
        return HeadLayers(np.zeros_like(scale), scale, layers)

    def _drop(self, values: Tensor) -> Tensor:
        if not self.training or self._dropout == 0:
            return values
        keep = torch.empty_like(values).bernoulli_(1 - self._dropout, generator=self._generator)
        return values * keep / (1 - self._dropout)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer without the initialisation that would draw from torch's global generator."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    return layer


def feature_scale(features: np.ndarray, widths: tuple[int, ...]) -> Tensor:
    """Return the scale [d] that gives each backbone's training features the same standard deviation.

    Args:
        features: float32 [n, d], backbones side by side.
        widths: how many of the d columns belong to each backbone.
    """
    parts, start = [], 0
    for width in widths:
        spread = float(features[:, start : start + width].std()) or 1.0
        parts.append(torch.full((width,), FEATURE_STD / spread))
        start += width
    return torch.cat(parts)
