"""What a study looks for, and in which direction."""

from __future__ import annotations

from typing import Literal

from finepoint.errors import ConfigurationError

Direction = Literal["minimize", "maximize"]
_MINIMIZE = ("loss", "error", "ece", "seconds", "perplexity")
_MAXIMIZE = ("accuracy", "f1", "auc", "precision", "recall", "score")


def direction_of(objective: str) -> Direction:
    """Return whether an objective is to be small or large, by its name.

    Raises:
        ConfigurationError: its name does not say, or it is measured on test images.

    >>> direction_of("valid_accuracy")
    'maximize'
    """
    if objective.startswith("test"):
        raise ConfigurationError(
            f"objective {objective!r} is measured on the test part; what is chosen by it cannot be judged by it. "
            "Use valid_loss"
        )
    name = objective.lower()
    if any(word in name for word in _MINIMIZE):
        return "minimize"
    if any(word in name for word in _MAXIMIZE):
        return "maximize"
    raise ConfigurationError(
        f"objective {objective!r}: its name does not say whether less or more is better; "
        f"use one with {', '.join(_MINIMIZE + _MAXIMIZE)} in it"
    )
