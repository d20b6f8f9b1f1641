"""What a training process is told: the container's variables and channels, and nothing else.

The same on a laptop, where the local engine lays out a job's folder, as in a SageMaker container.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finepoint.errors import ConfigurationError

# SageMaker's users write these for the same channel.
_VALID_NAMES = ("valid", "validation", "validate", "val")


@dataclass(frozen=True)
class Environment:
    """A job's places and hyperparameters.

    Args:
        model_dir: what is left here becomes model.tar.gz.
        output_data_dir: other results.
        checkpoint_dir: kept over restarts.
        channels: `train`, `valid`, and perhaps others, to folders.
        hyperparameters: by name; values are as JSON gave them.
    """

    model_dir: Path
    output_data_dir: Path
    checkpoint_dir: Path
    channels: Mapping[str, Path]
    hyperparameters: Mapping[str, Any]


def read_environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """Return what the container's variables say.

    Args:
        variables: `SM_MODEL_DIR`, `SM_OUTPUT_DATA_DIR`, `SM_CHANNELS`, `SM_CHANNEL_<NAME>`, `SM_HPS`, and
            `SAGEMAKER_BASE_DIR` where `/opt/ml` is elsewhere.

    Raises:
        ConfigurationError: variables or channels are missing; all are listed.
    """
    base = base_dir(variables)
    channels = {
        name.removeprefix("SM_CHANNEL_").lower(): Path(value)
        for name, value in variables.items()
        if name.startswith("SM_CHANNEL_")
    }
    given = [name for name in _VALID_NAMES if name in channels]
    if given:
        channels["valid"] = channels[given[0]]
    mistakes = [
        f"channel {name} is not given (SM_CHANNEL_{name.upper()} is not set)"
        for name in ("train", "valid")
        if name not in channels
    ]
    if len(given) > 1:
        mistakes.append(f"channels {' and '.join(given)} mean the same; give one of them")
    hyperparameters: dict[str, Any] = {}
    try:
        hyperparameters = read_hyperparameters(variables)
    except ConfigurationError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigurationError(mistakes)
    return Environment(
        model_dir=Path(variables.get("SM_MODEL_DIR", base / "model")),
        output_data_dir=Path(variables.get("SM_OUTPUT_DATA_DIR", base / "output" / "data")),
        checkpoint_dir=base / "checkpoints",
        channels=channels,
        hyperparameters=hyperparameters,
    )


def base_dir(variables: Mapping[str, str] = os.environ) -> Path:
    """Return the job's folder: `/opt/ml`, or where `SAGEMAKER_BASE_DIR` says."""
    return Path(variables.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def read_hyperparameters(variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the hyperparameters in `SM_HPS`.

    Raises:
        ConfigurationError: it is not a JSON object.
    """
    try:
        value = json.loads(variables.get("SM_HPS", "{}"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError("SM_HPS is not a JSON object")
    return value
