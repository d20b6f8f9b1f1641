"""From what a job is told to what it trains on: backbones, runtimes, features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finepoint.errors import ConfigurationError, DataError, TestPartError
from finepoint.events import emit
from finepoint.models.backbones import Backbone, resolve_backbones
from finepoint.models.choice import Choice, choose_runtime
from finepoint.profiler.context import phase
from finepoint.training.channels import Channel, FeatureCount, embed_channel, read_channel
from finepoint.training.environment import Environment
from finepoint.training.features import Progress
from finepoint.training.loop import TrainingData


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """Which features a job trains on.

    Args:
        backbone: names, joined by commas; their features stand side by side.
        weights: a path or `random` for each, joined by commas; "" takes the pretrained ones.
        runtime: what computes them; `auto` takes the fastest here.
        precision: `auto`, `f32` or `bf16`.
    """

    backbone: str = "efficientnet_lite0"
    weights: str = ""
    runtime: str = "auto"
    precision: str = "auto"

    @classmethod
    def take_from(cls, hyperparameters: dict[str, Any]) -> FeatureSettings:
        """Return the settings among a job's hyperparameters, removing them from there."""
        names = asdict(cls())
        return cls(**{name: str(hyperparameters.pop(name)) for name in names if name in hyperparameters})

    def resolve(self, seed: int = 0) -> tuple[tuple[Backbone, ...], tuple[Choice, ...]]:
        """Return the backbones with their weights found, and what computes each.

        Raises:
            ConfigurationError: a name or a combination that does not exist.
            WeightsError: weights are not to be had here.
        """
        names = [name.strip() for name in self.backbone.split(",") if name.strip()]
        if not names:
            raise ConfigurationError("no backbone is named; try efficientnet_lite0")
        weights = [weight.strip() for weight in self.weights.split(",")] if self.weights else []
        if weights == ["random"]:
            weights *= len(names)
        backbones = resolve_backbones(names, weights, seed=seed)
        choices = tuple(
            choose_runtime(backbone, runtime=self.runtime, precision=self.precision) for backbone in backbones
        )
        return backbones, choices


@dataclass(frozen=True)
class Prepared:
    """What is trained on.

    Args:
        data: features and labels.
        classes: the class names.
        backbones: and `choices`, what computed each one's features.
        count: how many images were embedded now.
        hyperparameters: those of the job that are not about features.
    """

    data: TrainingData
    classes: tuple[str, ...]
    backbones: tuple[Backbone, ...]
    choices: tuple[Choice, ...]
    count: FeatureCount
    hyperparameters: Mapping[str, Any]


def prepare(environment: Environment) -> Prepared:
    """Return features of the channels `train` and `valid`, computing those that the cache lacks.

    Raises:
        TestPartError: the job was given test images; what is chosen by them cannot be judged by them.
    """
    if "test" in environment.channels:
        raise TestPartError("a training or tuning job was given the channel test; only an evaluation may read it")
    remaining = dict(environment.hyperparameters)
    settings = FeatureSettings.take_from(remaining)
    with phase("weights"):
        backbones, choices = settings.resolve(int(remaining.get("seed", 0)))
    with phase("data_listing"):
        channels = {name: read_channel(environment.channels[name]) for name in ("train", "valid")}
    count = FeatureCount()

    def progress(done: int, total: int) -> None:
        emit("features", done=done, total=total)

    data, classes = training_data(channels, backbones, choices, count, progress)
    return Prepared(data, classes, backbones, choices, count, remaining)


def training_data(
    channels: Mapping[str, Channel],
    backbones: Sequence[Backbone],
    choices: Sequence[Choice],
    count: FeatureCount,
    progress: Progress | None = None,
) -> tuple[TrainingData, tuple[str, ...]]:
    """Return the features of channels `train` and `valid`, ready to train on, and the class names.

    Raises:
        DataError: a class of the validation images is not trained, or nothing could be embedded.
    """
    classes = tuple(sorted(set(channels["train"].labels)))
    strange = sorted(set(channels["valid"].labels) - set(classes))
    if strange:
        raise DataError(f"channel valid has classes that channel train lacks: {', '.join(map(repr, strange))}")
    number = {name: index for index, name in enumerate(classes)}
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    widths: tuple[int, ...] = ()
    for name in ("train", "valid"):
        channel = channels[name]
        features, usable, widths = embed_channel(channel, backbones, choices, count, progress)
        if not usable:
            raise DataError(f"channel {name}: none of {len(channel.images)} images could be read")
        parts[name] = features, np.array([number[channel.labels[index]] for index in usable], np.int64)
    return TrainingData(*parts["train"], *parts["valid"], len(classes), widths), classes


def backbones_json(prepared: Prepared) -> list[dict[str, Any]]:
    """Return the `backbones` object of `summary.json`."""
    return [
        {
            "name": backbone.name,
            "library": backbone.library,
            "architecture": backbone.architecture,
            "weights_sha256": backbone.weights_sha256,
            "weights_source": backbone.weights_source,
            "licence": backbone.licence,
            "random": backbone.random,
            "precision": choice.precision,
            "runtime": choice.runtime,
            "runtime_reason": choice.reason,
            "features": width,
        }
        for backbone, choice, width in zip(prepared.backbones, prepared.choices, prepared.data.widths, strict=True)
    ]
