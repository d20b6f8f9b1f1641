"""A rule about the weights that a training begins with."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finepoint.debugger.recording import Recording, Series
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.heads import ActivationOnLogits
from finepoint.debugger.rules.reading import TRAIN, behind_trained, loss, modules, plot, series, trained_weights
from finepoint.debugger.rules.result import RuleResult

# From the model's input to its logits, the standard deviation of what goes through may shrink or grow so much.
# Torch's own initialisation of linear layers and convolutions shrinks it to 0.4 a layer: four layers give 0.03.
_LOWEST_GAIN, _HIGHEST_GAIN = 1e-3, 30.0
# The median weight's standard deviation times the root of what goes into a unit: 0.6 by torch's own initialisation,
# 1.4 by Kaiming's, up to 3 in pretrained networks.
_LARGEST_SCALE = 5.0


@rule
@dataclass(frozen=True)
class PoorWeightInitialization(Rule):
    """The weights that training begins with are constant, much too small or much too large.

    Fires at the first saved steps when

    - more than half of the hidden weights (or the first) are constant: their units can never differ;
    - the standard deviation from the model's input to its logits grows beyond 30 times or shrinks below a thousandth;
    - the median weight is five times as large as keeps a signal's size (tanh hides the first sign of that);
    - or all three of SageMaker's signs are there: the variances of the activations' inputs differ between layers by
      more than `threshold`, the range of a gradient from its 5th to its 95th percentile is below `distribution_range`,
      and the loss has not come down for `patience` steps, which no activation on the logits explains.

    Where the documented default misfires: a variance ratio of 10 alone is what torch's own initialisation gives after
    three layers, and a narrow gradient is normal for a large layer; so it takes all three. A last layer that begins at
    zero, scales and tokens are left out: those are sensible ways to begin. Frozen weights are not looked at.

    Args:
        activation_inputs_regex: inputs of activations. SageMaker's default; where none was recorded, the outputs of
            linear and convolutional layers stand for them.
        threshold: largest ratio between the variances. SageMaker's default.
        distribution_range: SageMaker's default; where gradients were not kept whole, 3.3 standard deviations.
        patience: steps without a lower loss. SageMaker's default.
        steps: how many steps are looked at. SageMaker's default.
    """

    activation_inputs_regex: tuple[str, ...] = (".*relu_input",)
    threshold: float = 10.0
    distribution_range: float = 0.001
    patience: int = 5
    steps: int = 10

    def judge(self, recording: Recording) -> RuleResult:
        weights = trained_weights(recording)
        if not weights:
            return self.not_applicable("the model was not described, or has no weight that is trained")
        stds = {item.name: series(recording, item.name, "std") for item in weights}
        seen = [item for item in stds.values() if len(item)]
        if not seen:
            return self.not_applicable("no weight was saved")
        if min(int(item.steps[0]) for item in seen) >= self.steps:
            return self.not_applicable(f"no weight was saved in the first {self.steps} steps")
        constant = [name for name, item in stds.items() if len(item) and _is_constant(recording, name, item)]
        hidden = [item.name for item in weights[:-1]]
        if hidden and (hidden[0] in constant or 2 * len(set(constant) & set(hidden)) > len(hidden)):
            return self.issue(
                int(stds[constant[0]].steps[0]),
                "TRAIN",
                meaning=f"{len(constant)} of {len(weights)} weights begin constant: the units of a layer can never "
                "become different.",
                remedy="leave torch's own initialisation, or use torch.nn.init.kaiming_normal_(layer.weight)",
                weights=constant[:10],
            )
        scale = _scale(recording)
        if scale > _LARGEST_SCALE:
            return self.issue(
                int(seen[0].steps[0]),
                "TRAIN",
                meaning=f"The weights begin {scale:.2g} times as large as keeps a signal's size from layer to layer.",
                remedy="leave torch's own initialisation, or use torch.nn.init.kaiming_normal_(layer.weight)",
                scale=scale,
                series=plot(loss(recording)),
            )
        gain, step = self._gain(recording)
        if gain is not None and not _LOWEST_GAIN <= gain <= _HIGHEST_GAIN:
            return self.issue(
                step,
                "TRAIN",
                meaning=f"From input to logits the signal becomes {gain:.2g} times what it was: the weights begin "
                f"too {'large' if gain > 1 else 'small'}.",
                remedy="leave torch's own initialisation, or use torch.nn.init.kaiming_normal_(layer.weight)",
                gain=gain,
                series=plot(loss(recording)),
            )
        return self._three_signs(recording, [item.name for item in weights], gain)

    def _gain(self, recording: Recording) -> tuple[float | None, int]:
        """Return how much larger the logits are than the input, and at which step."""
        outputs = _layer_outputs(recording)
        inputs, logits = series(recording, "input", "std"), series(recording, "logits", "std")
        if not (outputs and len(inputs) and len(logits)) or any(module.frozen for module in modules(recording)):
            return None, 0
        step = int(max(inputs.steps[0], logits.steps[0]))
        hidden = outputs[-2].values[0] if len(outputs) > 1 else logits.values[0]
        # A last layer of zeros is sensible; then what is before it counts.
        end = logits.values[0] if logits.values[0] > 0 else hidden
        if step >= self.steps or not np.isfinite(end) or inputs.values[0] <= 0:
            return None, step
        return float(end / inputs.values[0]), step

    def _three_signs(self, recording: Recording, weights: Sequence[str], gain: float | None) -> RuleResult:
        variances = _matching(recording, self.activation_inputs_regex) or _layer_outputs(recording)
        first = [float(item.values[0]) ** 2 for item in variances if len(item) and item.values[0] > 0]
        ratio = max(first) / min(first) if len(first) > 1 else 1.0
        narrow = _narrowest_gradient(recording, weights, self.steps)
        losses = loss(recording)
        early = losses.values[: self.steps + self.patience]
        stuck = len(early) > self.patience and int(np.argmin(early)) < len(early) - self.patience
        signs = ratio > self.threshold and narrow < self.distribution_range and stuck
        if signs and not ActivationOnLogits().judge(recording).fired:
            return self.issue(
                int(losses.steps[min(len(losses), self.steps + self.patience) - 1]),
                "TRAIN",
                meaning=f"At the start the variances of the layers differ by a factor of {ratio:.0f}, gradients are "
                "narrow, and the loss does not come down.",
                remedy="leave torch's own initialisation, or use torch.nn.init.kaiming_normal_(layer.weight)",
                variance_ratio=ratio,
                gradient_range=narrow,
                series=plot(losses),
            )
        return self.clean(variance_ratio=ratio, gradient_range=narrow, **({} if gain is None else {"gain": gain}))


def _is_constant(recording: Recording, name: str, std: Series) -> bool:
    largest = series(recording, name, "abs_max")
    return bool(std.values[0] <= 1e-6 * (largest.values[0] if len(largest) else 0))


def _scale(recording: Recording) -> float:
    """Return the median over linear and convolutional layers of the weights' size, 1 where it keeps a signal's."""
    found = []
    for item in trained_weights(recording):
        std = series(recording, item.name, "std")
        if len(std) and {"in_features", "in_channels"} & set(item.module.settings):
            found.append(float(std.values[0]) * math.prod(item.shape[1:]) ** 0.5)
    return float(np.median(found)) if found else 0.0


def _matching(recording: Recording, regexes: Sequence[str]) -> list[Series]:
    """Return the standard deviations of what matches; a frozen backbone's activations are what they are."""
    trained = behind_trained(recording)
    names = [
        name
        for name in recording.names(mode=TRAIN)
        if any(re.search(regex, name) for regex in regexes)
        and (trained is None or any(name.startswith(f"{module}_") for module in trained))
    ]
    return [item for item in (series(recording, name, "std") for name in names) if len(item)]


def _layer_outputs(recording: Recording) -> list[Series]:
    """Return the standard deviations of what trained linear and convolutional layers put out, in the model's order."""
    layers = [
        item.name
        for item in modules(recording)
        if item.trainable and {"in_features", "in_channels"} & set(item.settings)
    ]
    found = (series(recording, f"{name}_output_0", "std") for name in layers)
    return [item for item in found if len(item)]


def _narrowest_gradient(recording: Recording, weights: Sequence[str], steps: int) -> float:
    """Return the smallest range of a weight's first gradient: later ones tell of the training, not of its beginning."""
    ranges = []
    for name in weights:
        kept = [place for place in recording.tensors(f"gradient/{name}", TRAIN) if place.step < steps]
        spread = series(recording, f"gradient/{name}", "std")
        if kept:
            low, high = np.percentile(recording.tensor(kept[0].name, kept[0].step, TRAIN), [5, 95])
            ranges.append(float(high - low))
        elif len(spread) and spread.steps[0] < steps:
            ranges.append(3.3 * float(spread.values[0]))
    return min(ranges, default=float("inf"))
