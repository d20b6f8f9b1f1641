"""The training entry point: `python -m finepoint.training` trains a head as its environment says; leaves a package."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch

from finepoint.errors import FinepointError, storage_errors
from finepoint.evaluation.calibration import fit_temperature
from finepoint.evaluation.unknown import fit_reference
from finepoint.events import emit
from finepoint.files import write_json
from finepoint.loops import hook_time
from finepoint.models.building import build_package
from finepoint.models.graphs import output_width
from finepoint.profiler.context import part, profiled, profiler_dir
from finepoint.training.environment import Environment, read_environment
from finepoint.training.hyperparameters import Hyperparameters
from finepoint.training.loop import TrainedHead, train_head
from finepoint.training.preparing import Prepared, backbones_json, prepare


def train(environment: Environment) -> None:
    """Train as the environment says; leave the package in its model folder and a record in `training.json`.

    Raises:
        FinepointError: what was given cannot be used.
    """
    torch.set_num_threads(1)  # a head's matrices are too small to share, and one thread repeats exactly
    given = dict(environment.hyperparameters)
    debug = str(given.pop("debug", True)).lower() != "false"
    prepared = prepare(replace(environment, hyperparameters=given))
    hyperparameters = Hyperparameters.from_mapping(prepared.hyperparameters)
    with part("training"):
        trained = train_head(
            prepared.data,
            hyperparameters,
            on_epoch=lambda record: emit("epoch", **record),
            checkpoint=environment.checkpoint_dir / "head.safetensors",
            debug_dir=environment.debug_dir if debug else None,
        )
        valid_logits = _valid_logits(prepared, trained)
        temperature = fit_temperature(valid_logits, prepared.data.valid_labels)
    with part("packing"):
        _package(environment, prepared, hyperparameters, trained, temperature, valid_logits)
    write_json(
        environment.output_data_dir / "training.json",
        {
            "hyperparameters": hyperparameters.to_json(),
            "epochs": trained.epochs,
            "best_epoch": trained.best_epoch,
            "seconds": round(trained.seconds, 3),
            "temperature": temperature,
            "backbones": backbones_json(prepared),
            "features": prepared.count.to_json(),
        },
    )


def _package(
    environment: Environment,
    prepared: Prepared,
    hyperparameters: Hyperparameters,
    trained: TrainedHead,
    temperature: float,
    valid_logits: np.ndarray,
) -> None:
    data = prepared.data
    build_package(
        environment.model_dir,
        backbones=prepared.backbones,
        choices=prepared.choices,
        head=trained.head.to_layers(),
        classes=prepared.classes,
        temperature=temperature,
        metrics={name: value for name, value in trained.best.items() if name != "seconds"},
        provenance={
            "hyperparameters": hyperparameters.to_json(),
            "images": {"train": len(data.train_labels), "valid": len(data.valid_labels)},
        },
        reference=fit_reference(data.train, data.valid, valid_logits, used=_last(prepared), seed=hyperparameters.seed),
    )


def _last(prepared: Prepared) -> np.ndarray:
    """Return float32 [d]: 1 for each backbone's last features, 0 for the averages of earlier stages beside them."""
    parts = []
    for backbone, width in zip(prepared.backbones, prepared.data.widths, strict=True):
        channels = output_width(backbone, "feature_map") if backbone.stages else width
        parts.append((np.arange(width) < channels).astype(np.float32))
    return np.concatenate(parts)


def _valid_logits(prepared: Prepared, trained: TrainedHead) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = trained.head(torch.from_numpy(prepared.data.valid)).numpy()
    return logits


def main() -> int:
    """Run the entry point and return its exit code."""
    try:
        with storage_errors(), profiled(profiler_dir(), whole_process=True, hook_clock=lambda: hook_time.seconds):
            train(read_environment())
    except FinepointError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
