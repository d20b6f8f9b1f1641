from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finepoint.errors import ConfigurationError, TestPartError
from finepoint.training.environment import Environment, read_environment
from finepoint.training.head import FEATURE_STD, Head, feature_scale
from finepoint.training.hyperparameters import METRICS, Hyperparameters, known_hyperparameters
from finepoint.training.loop import TrainingData, train_head
from finepoint.training.preparing import prepare


def blobs(noise: float = 1.0, per_class: int = 60) -> TrainingData:
    generator = np.random.default_rng(0)
    centres = generator.normal(0, 1, (3, 20))
    labels = np.repeat(np.arange(3), per_class)
    features = (centres[labels] + generator.normal(0, noise, (len(labels), 20))).astype(np.float32)
    order = generator.permutation(len(labels))
    train, valid = order[: len(order) * 2 // 3], order[len(order) * 2 // 3 :]
    return TrainingData(features[train], labels[train], features[valid], labels[valid], 3, (20,))


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_head_and_optimizer_learns(head: str, optimizer: str) -> None:
    values = {"head": head, "optimizer": optimizer, "lr": 0.02, "epochs": 12, "batch_size": 16, "dropout": 0.1}
    trained = train_head(blobs(), Hyperparameters.from_mapping(values))
    assert trained.best["valid_accuracy"] > 0.9
    assert set(METRICS) == trained.best.keys() - {"epoch", "seconds"}


def test_training_repeats_bit_for_bit_and_does_not_touch_global_randomness() -> None:
    hyperparameters = Hyperparameters(epochs=3, dropout=0.3, head="mlp")
    torch.manual_seed(1)
    first = train_head(blobs(), hyperparameters)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    second = train_head(blobs(), hyperparameters)
    assert all(torch.equal(a, b) for a, b in zip(first.head.parameters(), second.head.parameters(), strict=True))
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state())


class KilledError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, optimizer: str) -> None:
    hyperparameters = Hyperparameters.from_mapping({"epochs": 5, "dropout": 0.2, "optimizer": optimizer, "lr": 0.01})
    whole = train_head(blobs(), hyperparameters)

    def kill(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train_head(blobs(), hyperparameters, on_epoch=kill, checkpoint=tmp_path / "c.safetensors")
    resumed = train_head(blobs(), hyperparameters, checkpoint=tmp_path / "c.safetensors")
    for a, b in zip(whole.head.parameters(), resumed.head.parameters(), strict=True):
        assert torch.equal(a, b)
    strip = [{key: value for key, value in row.items() if key != "seconds"} for row in whole.epochs]
    assert strip == [{key: value for key, value in row.items() if key != "seconds"} for row in resumed.epochs]


def test_a_checkpoint_of_something_else_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    train_head(blobs(), Hyperparameters(epochs=1, lr=0.5), checkpoint=path)
    other = train_head(blobs(), Hyperparameters(epochs=2), checkpoint=path)
    assert len(other.epochs) == 2
    path.write_bytes(b"damaged")
    assert len(train_head(blobs(), Hyperparameters(epochs=2), checkpoint=path).epochs) == 2


def test_the_best_epoch_is_kept_and_patience_ends_training() -> None:
    hyperparameters = Hyperparameters(epochs=200, lr=0.3, patience=3, averaging=0.0)
    trained = train_head(blobs(noise=4.0), hyperparameters)
    losses = [row["valid_loss"] for row in trained.epochs]
    assert trained.best_epoch == int(np.argmin(losses)) + 1
    assert len(trained.epochs) == trained.best_epoch + 3
    with torch.no_grad():
        logits = trained.head(torch.from_numpy(blobs(noise=4.0).valid))
    labels = torch.from_numpy(blobs(noise=4.0).valid_labels)
    assert float(torch.nn.functional.cross_entropy(logits, labels)) == pytest.approx(min(losses), abs=1e-6)


def test_the_loss_of_an_epoch_is_the_mean_over_images_not_over_batches() -> None:
    data = blobs()
    hyperparameters = Hyperparameters(epochs=1, lr=1e-12, batch_size=50)
    trained = train_head(data, hyperparameters)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            trained.head(torch.from_numpy(data.train)), torch.from_numpy(data.train_labels)
        )
    assert trained.epochs[0]["train_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_balanced_class_weights_raise_the_recall_of_a_rare_class() -> None:
    generator = np.random.default_rng(0)
    labels = np.array([0] * 300 + [1] * 12)
    features = (labels[:, None] * 0.8 + generator.normal(0, 1, (312, 5))).astype(np.float32)
    data = TrainingData(features, labels, features, labels, 2, (5,))
    plain, balanced = (
        train_head(data, Hyperparameters.from_mapping({"epochs": 30, "lr": 0.05, "class_weights": kind, "patience": 0}))
        for kind in ("none", "balanced")
    )
    assert balanced.epochs[-1]["valid_balanced_accuracy"] > plain.epochs[-1]["valid_balanced_accuracy"] + 0.05


def test_each_backbones_features_are_scaled_alike() -> None:
    features = np.concatenate([np.random.default_rng(0).normal(0, s, (500, 8)) for s in (0.1, 50)], axis=1)
    scaled = features * feature_scale(features.astype(np.float32), (8, 8)).numpy()
    assert scaled[:, :8].std() == pytest.approx(FEATURE_STD, rel=1e-3)
    assert scaled[:, 8:].std() == pytest.approx(FEATURE_STD, rel=1e-3)


def test_the_exported_layers_compute_what_the_head_computes() -> None:
    head = Head(
        Hyperparameters(head="mlp", hidden=7), 3, torch.full((20,), 0.5), torch.Generator().manual_seed(0)
    ).eval()
    features = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32)
    with torch.no_grad():
        expected = head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(head.to_layers().logits(features), expected, atol=1e-5)


def test_every_wrong_hyperparameter_is_listed_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Hyperparameters.from_mapping(
            {"lr": -1, "epochs": 2.5, "optimizer": "adagrad", "learning_rate": 1, "dropout": "x"}
        )
    assert len(caught.value.mistakes) == 5
    assert Hyperparameters.from_mapping({"lr": '"0.5"', "batch_size": "32", "optimizer": '"sgd"'}).optimizer == "sgd"
    assert set(known_hyperparameters()) == set(Hyperparameters().to_json())


def test_the_environment_is_read_as_a_container_sets_it(tmp_path: Path) -> None:
    variables = {
        "SM_CHANNEL_TRAIN": "/data/train",
        "SM_CHANNEL_VALIDATION": "/data/validation",
        "SM_MODEL_DIR": "/opt/ml/model",
        "SM_HPS": '{"lr": 0.01, "optimizer": "adam"}',
    }
    environment = read_environment(variables)
    assert environment.channels["valid"] == Path("/data/validation")
    assert environment.hyperparameters == {"lr": 0.01, "optimizer": "adam"}
    assert environment.checkpoint_dir == Path("/opt/ml/checkpoints")
    with pytest.raises(ConfigurationError) as caught:
        read_environment({"SM_HPS": "["})
    assert len(caught.value.mistakes) == 3


def test_a_training_job_that_is_given_test_images_refuses(tmp_path: Path) -> None:
    channels = {"train": tmp_path, "valid": tmp_path, "test": tmp_path}
    with pytest.raises(TestPartError):
        prepare(Environment(tmp_path, tmp_path, tmp_path, tmp_path, channels, {}))
