"""The trainer's hyperparameters: one definition for flags, Python arguments, JSON keys and tuning ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from finepoint.errors import ConfigurationError

# What the trainer records of every epoch, and a study can therefore look for.
METRICS = ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy", "valid_balanced_accuracy")
Optimizer = Literal["adam", "adamw", "sgd"]
HeadKind = Literal["linear", "mlp"]
ClassWeights = Literal["none", "balanced"]


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How a head is trained.

    Args:
        lr: learning rate.
        batch_size: images a step.
        epochs: at most so many passes over the training images.
        optimizer: `adam`, `adamw` or `sgd` (with momentum 0.9).
        weight_decay: as the optimizer understands it.
        head: `linear`, or `mlp` (one hidden layer).
        hidden: width of the MLP's hidden layer.
        dropout: share of features dropped while training, 0..1.
        label_smoothing: 0..1.
        class_weights: `balanced` weighs each class by the inverse of its share.
        averaging: decay of the running average of the weights, which is what is kept; 0 keeps the last.
        patience: stop after so many epochs without a lower validation loss; 0 never stops.
        seed: of initialisation, order and dropout.

    >>> Hyperparameters.from_mapping({"lr": "0.01", "epochs": 3}).lr
    0.01
    """

    lr: float = 0.01
    batch_size: int = 64
    epochs: int = 4
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    head: HeadKind = "linear"
    hidden: int = 256
    dropout: float = 0.0
    label_smoothing: float = 0.0
    class_weights: ClassWeights = "none"
    averaging: float = 0.98
    patience: int = 5
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Hyperparameters:
        """Return the hyperparameters with these values, which may be strings or JSON strings; the rest are defaults.

        Raises:
            ConfigurationError: names unknown, of the wrong type or out of range, all in one message.
        """
        mistakes: list[str] = []
        known: dict[str, Any] = {}
        for name, value in values.items():
            if name not in _TYPES:
                mistakes.append(f"hyperparameter {name!r} is unknown; there are {', '.join(_TYPES)}")
                continue
            try:
                known[name] = _convert(name, value)
            except ValueError as error:
                mistakes.append(f"{name} is {value!r}; {error}")
        if mistakes:
            raise ConfigurationError(mistakes)
        return cls(**known)


_TYPES: dict[str, Any] = get_type_hints(Hyperparameters)

# (lowest, highest, lowest excluded)
_BOUNDS: dict[str, tuple[float, float, bool]] = {
    "lr": (0, 10, True),
    "batch_size": (1, 65_536, False),
    "epochs": (1, 10_000, False),
    "weight_decay": (0, 10, False),
    "hidden": (1, 65_536, False),
    "dropout": (0, 0.95, False),
    "label_smoothing": (0, 0.95, False),
    "averaging": (0, 0.99999, False),
    "patience": (0, 10_000, False),
    "seed": (0, 2**32 - 1, False),
}


def known_hyperparameters() -> dict[str, tuple[Any, Any] | tuple[str, ...]]:
    """Return each hyperparameter with its (lowest, highest) value, or with its choices.

    >>> known_hyperparameters()["optimizer"]
    ('adam', 'adamw', 'sgd')
    """
    return {
        field.name: _BOUNDS[field.name][:2] if field.name in _BOUNDS else get_args(_TYPES[field.name])
        for field in fields(Hyperparameters)
    }


def _convert(name: str, value: Any) -> Any:
    kind = _TYPES[name]
    if isinstance(value, str) and value.startswith('"') and value.endswith('"') and len(value) > 1:
        value = json.loads(value)  # SageMaker hands over JSON-encoded strings
    if kind not in (int, float):
        choices = get_args(kind)
        if value not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}")
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("it must be a number") from None
    lowest, highest, excluded = _BOUNDS[name]
    if not (lowest <= number <= highest) or (excluded and number == lowest):
        raise ValueError(f"it must be {'above' if excluded else 'at least'} {lowest} and at most {highest}")
    if kind is int:
        if number != int(number):
            raise ValueError("it must be a whole number")
        return int(number)
    return number
