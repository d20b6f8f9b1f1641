"""Training a head on features: the loop."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from finepoint.debugger.context import recorded
from finepoint.profiler.context import Loop, training_loop
from finepoint.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from finepoint.training.head import Head, feature_scale
from finepoint.training.hyperparameters import Hyperparameters

OnEpoch = Callable[[dict[str, Any]], None]
# Steps over which the running average grows from the first weights to its full length.
_AVERAGING_WARMUP = 10


@dataclass(frozen=True)
class TrainingData:
    """Features and labels, backbones side by side.

    Args:
        train: float32 [n, d] and `train_labels`, int64 [n].
        valid: likewise.
        classes: how many.
        widths: how many of the d columns belong to each backbone.
    """

    train: np.ndarray
    train_labels: np.ndarray
    valid: np.ndarray
    valid_labels: np.ndarray
    classes: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class TrainedHead:
    """What training left.

    Args:
        head: with the weights of the best epoch, in eval mode.
        epochs: a record of each: epoch (from 1), losses, accuracies, seconds.
        best_epoch: the one with the lowest validation loss.
        seconds: in all.
    """

    head: Head
    epochs: list[dict[str, Any]]
    best_epoch: int
    seconds: float

    @property
    def best(self) -> dict[str, Any]:
        """The best epoch's record."""
        return self.epochs[self.best_epoch - 1]


def train_head(
    data: TrainingData,
    hyperparameters: Hyperparameters,
    *,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    debug_dir: Path | None = None,
) -> TrainedHead:
    """Train a head and return it as it was after its best epoch.

    Args:
        data: features and labels.
        hyperparameters: how.
        on_epoch: called with each epoch's record; what it raises ends the training.
        checkpoint: a file to go on from, if it is there, and to write after every epoch.
        debug_dir: a folder for the debugger's recording; without one nothing is recorded.
    """
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(hyperparameters.seed)
    head = Head(hyperparameters, data.classes, feature_scale(data.train, data.widths), generator)
    average = copy.deepcopy(head)
    optimizer = _optimizer(head, hyperparameters)
    state = Checkpoint(head, average, copy.deepcopy(head), optimizer, generator, 0, 0, [])
    if checkpoint is not None and checkpoint.is_file():
        state = read_checkpoint(checkpoint, state, hyperparameters)
    tensors = [torch.from_numpy(array) for array in (data.train, data.train_labels, data.valid, data.valid_labels)]
    features, labels, valid, valid_labels = tensors
    weight = _class_weights(labels, data.classes) if hyperparameters.class_weights == "balanced" else None

    with (
        training_loop() as clock,
        recorded(head, debug_dir, stand_ins=[average], elapsed=_process_seconds()) as recording,
    ):
        while len(state.epochs) < hyperparameters.epochs and not _out_of_patience(state, hyperparameters):
            began = time.perf_counter()
            loss, accuracy = _train_epoch(state, features, labels, hyperparameters, weight, clock)
            clock.boundary()
            model = average if hyperparameters.averaging else head
            with clock.evaluation:
                valid_loss, valid_accuracy, balanced = _measure(model, valid, valid_labels)
            recording.epoch_ended()
            record = {
                "epoch": len(state.epochs) + 1,
                "train_loss": loss,
                "valid_loss": valid_loss,
                "train_accuracy": accuracy,
                "valid_accuracy": valid_accuracy,
                "valid_balanced_accuracy": balanced,
                "seconds": round(time.perf_counter() - began, 4),
            }
            state.epochs.append(record)
            if state.best_epoch == 0 or valid_loss < state.epochs[state.best_epoch - 1]["valid_loss"]:
                state.best_epoch = len(state.epochs)
                state.best.load_state_dict(model.state_dict())
            if checkpoint is not None:
                with clock.checkpoint:
                    write_checkpoint(checkpoint, state, hyperparameters)
                clock.saved()
            if on_epoch is not None:
                on_epoch(record)
            clock.boundary()
    return TrainedHead(state.best.eval(), state.epochs, state.best_epoch, time.perf_counter() - start)


def _train_epoch(
    state: Checkpoint,
    features: Tensor,
    labels: Tensor,
    hyperparameters: Hyperparameters,
    weight: Tensor | None,
    clock: Loop,
) -> tuple[float, float]:
    """Take one pass over the training features; return the mean loss and the accuracy met on the way."""
    head, optimizer = state.head.train(), state.optimizer
    order = torch.randperm(len(features), generator=state.generator)
    total, correct = 0.0, 0
    for rows in torch.split(order, hyperparameters.batch_size):
        with clock.data_wait:
            batch, wanted = features[rows], labels[rows]
        with clock.forward:
            logits = head(batch)
            loss = cross_entropy(logits, wanted, weight=weight, label_smoothing=hyperparameters.label_smoothing)
        with clock.backward:
            optimizer.zero_grad()
            torch.autograd.backward(loss)
        with clock.optimizer:
            optimizer.step()
            state.step += 1
            decay = min(hyperparameters.averaging, state.step / (state.step + _AVERAGING_WARMUP))
            _move_average(state.average, head, decay)
        total += float(loss.detach()) * len(rows)
        correct += int((logits.detach().argmax(1) == wanted).sum())
        clock.stepped(len(rows))
    return total / len(features), correct / len(features)


@torch.no_grad()
def _move_average(average: Head, head: Head, decay: float) -> None:
    for mean, value in zip(average.parameters(), head.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


@torch.no_grad()
def _measure(head: Head, features: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Return mean loss, accuracy and balanced accuracy (mean recall of the classes that occur)."""
    logits = head.eval()(features)
    right = logits.argmax(1) == labels
    recalls = [float(right[labels == label].float().mean()) for label in torch.unique(labels)]
    return float(cross_entropy(logits, labels)), float(right.float().mean()), float(np.mean(recalls))


def _optimizer(head: Head, hyperparameters: Hyperparameters) -> torch.optim.Optimizer:
    lr, decay = hyperparameters.lr, hyperparameters.weight_decay
    if hyperparameters.optimizer == "sgd":
        return torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    kind = torch.optim.AdamW if hyperparameters.optimizer == "adamw" else torch.optim.Adam
    return kind(head.parameters(), lr=lr, weight_decay=decay, foreach=True)


def _class_weights(labels: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return len(labels) / (classes * counts)


def _process_seconds() -> float:
    """Return how long this process has lived."""
    return time.time() - float(psutil.Process().create_time())


def _out_of_patience(state: Checkpoint, hyperparameters: Hyperparameters) -> bool:
    return 0 < hyperparameters.patience <= len(state.epochs) - state.best_epoch
