"""Finepoint's own trainings of a head on features are clean under every rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from finepoint.debugger.budget import Budget
from finepoint.debugger.collection import CollectionKeys, CollectionManager
from finepoint.debugger.observers import observe
from finepoint.debugger.recorder import Recorder
from finepoint.debugger.rules.checking import check_recording
from finepoint.debugger.selection import DEFAULT_COLLECTIONS, Selection
from finepoint.debugger.writing import RecordingWriter
from finepoint.training import loop
from finepoint.training.hyperparameters import Hyperparameters
from finepoint.training.loop import TrainingData, train_head

ASKED = {"AllZero": {"collection_names": "weights"}, "UnchangedTensor": {"collection_names": "weights"}}


def features(seed: int, classes: int, count: int, width: int) -> TrainingData:
    """Return features as a backbone gives them: not negative, classes a little apart."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 0.5, (classes, width))
    labels = np.arange(count) % classes
    values = np.maximum(centres[labels] + generator.normal(0, 1, (count, width)), 0).astype(np.float32)
    held = count // 5
    return TrainingData(values[held:], labels[held:], values[:held], labels[:held], classes, (width,))


def late_cross_entropy(*args: Tensor, **kwargs: object) -> Tensor:
    """The loss as the trainer sees it in a job that the debugger was attached to before it was imported."""
    return functional.cross_entropy(*args, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("lr", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("seed", range(2))
def test_trainings_of_a_head_are_clean(seed: int, lr: float, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "cross_entropy", late_cross_entropy)
    batch, epochs = (64, 128)[seed % 2], 2 + seed % 3
    data = features(seed, classes=(3, 10)[seed], count=batch * 20, width=160)
    values = {"lr": lr, "batch_size": batch, "epochs": epochs, "head": head, "seed": seed, "hidden": 128}
    if seed == 1:
        values |= {"label_smoothing": 0.1, "class_weights": "balanced", "optimizer": "adamw", "dropout": 0.2}
    writer = RecordingWriter(None)
    included = [*DEFAULT_COLLECTIONS, CollectionKeys.LOSSES]
    recorder = Recorder(writer, Selection(CollectionManager(beyond=True), included, budget=Budget(1.0)), discover=True)
    observe(recorder)
    torch.set_num_threads(1)
    trained = train_head(data, Hyperparameters.from_mapping(values))
    recorder.close()
    results = check_recording(writer.recording(), parameters=ASKED)
    assert len(trained.epochs) == epochs
    assert [(item.rule, item.meaning) for item in results if item.fired or item.status == "Error"] == []
    judged = {item.rule for item in results if item.passed}
    assert judged >= {"ActivationOnLogits", "LearningRateTooHigh", "LossNotDecreasing", "UnusedParameters"}
