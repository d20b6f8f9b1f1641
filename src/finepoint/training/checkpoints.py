"""Checkpoints: everything that training needs to go on as if nothing had happened, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from finepoint.files import write_bytes
from finepoint.training.head import Head
from finepoint.training.hyperparameters import Hyperparameters


@dataclass
class Checkpoint:
    """The whole state of a training.

    Args:
        head: being trained; `average` is the running average of its weights, `best` the best epoch's.
        optimizer: with its moments.
        generator: of order and dropout.
        step: optimizer steps taken.
        best_epoch: from 1; 0 while there is none.
        epochs: the history.
    """

    head: Head
    average: Head
    best: Head
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int
    best_epoch: int
    epochs: list[dict[str, Any]]


def write_checkpoint(path: Path, state: Checkpoint, hyperparameters: Hyperparameters) -> None:
    """Write the state to `path`, atomically."""
    tensors: dict[str, Tensor] = {"generator": state.generator.get_state()}
    for name in ("head", "average", "best"):
        module: Head = getattr(state, name)
        tensors |= {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}
    optimizer = state.optimizer.state_dict()
    for number, values in optimizer["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": value.clone() for key, value in values.items() if isinstance(value, Tensor)
        }
    about = {
        "hyperparameters": hyperparameters.to_json(),
        "param_groups": optimizer["param_groups"],
        "step": state.step,
        "best_epoch": state.best_epoch,
        "epochs": state.epochs,
    }
    write_bytes(path, save(tensors, metadata={"state": json.dumps(about)}))


def read_checkpoint(path: Path, state: Checkpoint, hyperparameters: Hyperparameters) -> Checkpoint:
    """Return `state` brought to where the checkpoint in `path` left it.

    A checkpoint of other hyperparameters, or a damaged one, is set aside and `state` returned as it is.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - the file is no mapping
    except (SafetensorError, ValueError, KeyError, TypeError):
        path.rename(path.with_suffix(".damaged"))
        return state
    if about["hyperparameters"] != hyperparameters.to_json():
        path.rename(path.with_suffix(".other"))
        return state
    for name in ("head", "average", "best"):
        prefix = f"{name}."
        module: Head = getattr(state, name)
        module.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            moments.setdefault(int(number), {})[name] = value
    state.optimizer.load_state_dict({"state": moments, "param_groups": about["param_groups"]})
    state.generator.set_state(tensors["generator"])
    state.step, state.best_epoch, state.epochs = about["step"], about["best_epoch"], about["epochs"]
    return state
