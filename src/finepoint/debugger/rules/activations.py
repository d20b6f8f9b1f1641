"""Rules about activations that say nothing any more: dead ReLUs, saturated sigmoids and tanhs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finepoint.debugger.recording import Recording, Series
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import TRAIN, behind_trained, first_run, modules, parameters, plot, series
from finepoint.debugger.rules.result import RuleResult

# Saved steps in a row: one batch may leave a unit silent by chance.
_IN_A_ROW = 3


@rule
@dataclass(frozen=True)
class DeadRelu(Rule):
    """Most units of a ReLU layer are zero for every sample.

    A unit is dead that is active for less than `threshold_inactivity` percent of the samples of a batch; where the
    outputs were kept whole this is counted, else the recorded `dead_fraction` (active for no sample) stands for it.
    Fires when more than `threshold_layer` percent of a layer's units are dead at three saved steps in a row.

    Where the documented default misfires: a frozen backbone's ReLUs are what they are, and nothing that is trained
    comes before them, so they are not looked at; one batch of few samples leaves many units silent; and of a layer that
    has not begun to learn, whose input hardly varies, half of the units are silent by the toss of a coin, more of a
    narrow one (four standard deviations are allowed).

    Args:
        tensor_regex: outputs to look at; by default those of all ReLU-like modules.
        threshold_inactivity: percent of samples. SageMaker's default.
        threshold_layer: percent of a layer's units. SageMaker's default.
    """

    tensor_regex: tuple[str, ...] = ()
    threshold_inactivity: float = 1.0
    threshold_layer: float = 50.0

    def judge(self, recording: Recording) -> RuleResult:
        layers = self._layers(recording)
        if not layers:
            return self.not_applicable("no output of a ReLU behind a trained layer was seen")
        if max(len(layer) for layer in layers.values()) < _IN_A_ROW:
            return self.not_applicable(f"outputs of fewer than {_IN_A_ROW} steps were saved")
        found = []
        for name, layer in layers.items():
            least = min(max(self.threshold_layer / 100, _by_chance(recording, name)), 0.999)
            index = first_run(layer.values > least, _IN_A_ROW)
            if index is not None:
                found.append((int(layer.steps[index]), name, layer))
        if not found:
            return self.clean(most_dead_percent=max(100 * float(layer.values[-1]) for layer in layers.values()))
        step, name, layer = min(found, key=lambda item: item[:2])
        return self.issue(
            step,
            "TRAIN",
            meaning=f"{100 * layer.values[layer.steps == step][0]:.0f}% of the units of {name} are dead: zero for "
            "every sample, without a gradient to revive them.",
            remedy="lower the learning rate or warm it up, initialise with torch.nn.init.kaiming_normal_ and zero "
            "biases, or use torch.nn.LeakyReLU",
            layers=sorted(name for _, name, _ in found),
            threshold_layer=self.threshold_layer,
            series=plot(layer),
        )

    def _layers(self, recording: Recording) -> dict[str, Series]:
        names = [name.removeprefix("dead_fraction/") for name in recording.names("^dead_fraction/", mode=TRAIN)]
        names += [place.name for place in recording.tensors(mode=TRAIN) if "relu" in place.name.lower()]
        trained, listed = behind_trained(recording), [module.name for module in modules(recording)]
        layers = {}
        for name in dict.fromkeys(names):
            if self.tensor_regex:
                if not any(re.search(regex, name) for regex in self.tensor_regex):
                    continue
            elif trained is not None and _of(name, listed) and not _of(name, trained):
                continue  # what was called as a function is recorded only where something trained stands before it
            whole = _whole(recording, name)
            layer = whole if len(whole) else series(recording, f"dead_fraction/{name}")
            if len(whole):
                layer = self._counted(recording, name, whole)
            if len(layer):
                layers[name] = layer
        return layers

    def _counted(self, recording: Recording, name: str, places: Series) -> Series:
        """Return the share of dead units, counted in whole outputs."""
        shares = []
        for step in places.steps.tolist():
            outputs = recording.tensor(name, step, TRAIN)
            units = np.moveaxis(outputs, 1, -1).reshape(-1, outputs.shape[1]) if outputs.ndim > 1 else outputs[:, None]
            active = 100 * (units > 0).mean(0)
            shares.append(float((active < self.threshold_inactivity).mean()))
        return _series(f"dead_fraction/{name}", places, np.array(shares))


@rule
@dataclass(frozen=True)
class SaturatedActivation(Rule):
    """Most of a tanh's or sigmoid's inputs are so large that it is flat there.

    An activation is saturated where its input lies outside `threshold_tanh_min..max` or `threshold_sigmoid_min..max`.
    A unit whose inputs lie inside for less than `threshold_inactivity` percent of a batch is saturated; fires when more
    than `threshold_layer` percent of a layer's units are, at three saved steps in a row. This needs inputs kept whole
    (`hook: collections include_regex .*tanh_input`). Without them the recorded share of saturated outputs (sigmoid
    below 0.01 or above 0.99, tanh beyond ±0.98) is compared with `threshold_layer`: it asks for less than SageMaker's
    thresholds, at which the gradient is 1e-7 and training has long stopped.

    What nothing with parameters follows is the model's output: a network that is sure of its answers saturates it.

    Args:
        collection_names: collections of inputs to look at.
        tensor_regex: inputs to look at. SageMaker's default.
        threshold_tanh_min, threshold_tanh_max: bounds of a tanh's input. SageMaker's defaults.
        threshold_sigmoid_min, threshold_sigmoid_max: of a sigmoid's. SageMaker's defaults.
        threshold_inactivity: percent of samples. SageMaker's default.
        threshold_layer: percent of a layer's units. SageMaker's default.
    """

    collection_names: tuple[str, ...] = ()
    tensor_regex: tuple[str, ...] = (".*tanh_input", ".*sigmoid_input")
    threshold_tanh_min: float = -9.4999
    threshold_tanh_max: float = 9.4999
    threshold_sigmoid_min: float = -23.0
    threshold_sigmoid_max: float = 16.99999
    threshold_inactivity: float = 1.0
    threshold_layer: float = 50.0

    def judge(self, recording: Recording) -> RuleResult:
        layers = {}
        last = _after_parameters(recording)
        for name in recording.names("^saturated_fraction/", mode=TRAIN):
            output = name.removeprefix("saturated_fraction/")
            if _module_of(output) not in last:
                layers[output] = series(recording, name)
        kinds = {module.name: module.type.lower() for module in modules(recording)}
        chosen = set().union(*(recording.collections.get(name, set()) for name in self.collection_names))
        for name in sorted({place.name for place in recording.tensors(mode=TRAIN)}):
            kind = "tanh" if "tanh" in kinds.get(_module_of(name), name.lower()) else "sigmoid"
            wanted = any(re.search(regex, name) for regex in self.tensor_regex) or name in chosen
            wanted = wanted or ("_input_" in name and kinds.get(_module_of(name), "") in ("tanh", "sigmoid"))
            if wanted:
                layers[name] = self._counted(recording, name, kind)
        if not layers:
            return self.not_applicable("no tanh or sigmoid was seen")
        if max(len(layer) for layer in layers.values()) < _IN_A_ROW:
            return self.not_applicable(f"activations of fewer than {_IN_A_ROW} steps were saved")
        found = []
        for name, layer in layers.items():
            index = first_run(100 * layer.values > self.threshold_layer, _IN_A_ROW)
            if index is not None:
                found.append((int(layer.steps[index]), name, layer))
        if not found:
            return self.clean(most_saturated_percent=max(100 * float(layer.values.max()) for layer in layers.values()))
        step, name, layer = min(found, key=lambda item: item[:2])
        return self.issue(
            step,
            "TRAIN",
            meaning=f"{100 * layer.values[layer.steps == step][0]:.0f}% of {name} is saturated: its gradient is "
            "next to zero there.",
            remedy="initialise with torch.nn.init.xavier_normal_, normalise what goes in, put batch norm before the "
            "activation, or use ReLU",
            layers=sorted(name for _, name, _ in found),
            threshold_layer=self.threshold_layer,
            series=plot(layer),
        )

    def _counted(self, recording: Recording, name: str, kind: str) -> Series:
        """Return the share of saturated units, counted in whole inputs."""
        tanh = (self.threshold_tanh_min, self.threshold_tanh_max)
        low, high = tanh if kind == "tanh" else (self.threshold_sigmoid_min, self.threshold_sigmoid_max)
        places, shares = _whole(recording, name), []
        for step in places.steps.tolist():
            inputs = recording.tensor(name, step, TRAIN)
            units = inputs.reshape(len(inputs), -1)
            active = 100 * ((units > low) & (units < high)).mean(0)
            shares.append(float((active < self.threshold_inactivity).mean()))
        return _series(f"saturated_fraction/{name}", places, np.array(shares))


def _of(name: str, owners: Sequence[str]) -> bool:
    return any(name.startswith(f"{owner}_output") for owner in owners)


def _by_chance(recording: Recording, name: str) -> float:
    """Return how large a share of a layer's units may be silent if each is by the toss of a coin."""
    listed = modules(recording)
    place = next((index for index, module in enumerate(listed) if name.startswith(f"{module.name}_output")), 0)
    widths = (
        module.settings.get(key)
        for module in reversed(listed[:place])
        for key in ("out_features", "out_channels", "num_features")
    )
    told = {fact["name"]: fact["units"] for fact in recording.facts("activation")}
    units = told.get(name) or next((int(width) for width in widths if width), 0)
    return 0.5 + 4 * (0.25 / units) ** 0.5 if units else 0.5


def _after_parameters(recording: Recording) -> set[str]:
    """Return the modules behind the last one that has parameters."""
    owners = {item.module.name for item in parameters(recording)}
    listed = [module.name for module in modules(recording)]
    last = max((index for index, name in enumerate(listed) if name in owners), default=len(listed))
    return set(listed[last + 1 :])


def _module_of(name: str) -> str:
    return re.sub(r"_(input|output)(_\d+)?$", "", name)


def _whole(recording: Recording, name: str) -> Series:
    places = recording.tensors(name, TRAIN)
    steps = np.array([place.step for place in places], np.int64)
    at = np.array([place.global_step for place in places], np.int64)
    return Series(name, TRAIN, "whole", steps, np.zeros(len(steps)), at, np.zeros(len(steps)), np.zeros_like(steps))


def _series(name: str, places: Series, values: Sequence[float] | np.ndarray) -> Series:
    rest = (places.global_steps, places.times, places.ranks)
    return Series(name, TRAIN, "value", places.steps, np.asarray(values, float), *rest)
