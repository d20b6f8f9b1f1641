"""The tuning job: `python -m finepoint.engines.study` runs a whole study in one process.

Importing torch takes seconds and a trial on cached features a fraction of one, so that trials are functions here,
not processes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finepoint.engines.telling import Told
from finepoint.errors import FinepointError, storage_errors
from finepoint.events import emit
from finepoint.files import write_json
from finepoint.profiler.context import part, profiled, profiler_dir
from finepoint.training.environment import Environment, read_environment
from finepoint.training.hyperparameters import Hyperparameters, known_hyperparameters
from finepoint.training.loop import train_head
from finepoint.training.preparing import Prepared, backbones_json, prepare
from finepoint.tuning.parameters import check_space, space_from_json
from finepoint.tuning.state import StudyState
from finepoint.tuning.strategies import trial_seed
from finepoint.tuning.study import StudySpec, Trial, run_study

# Settings of a study, as hyperparameters of its job.
STUDY_KEYS = ("space", "strategy", "objective", "max_jobs", "max_parallel_jobs", "early_stopping", "warm_start")


def study_spec(settings: Mapping[str, Any], seed: int) -> StudySpec:
    """Return the spec that a job's settings describe, its space checked against the trainer's hyperparameters.

    Raises:
        ConfigurationError: settings are wrong; all are listed.
    """
    space = space_from_json(dict(settings["space"]))
    check_space(space, known_hyperparameters())
    given = {key: settings[key] for key in STUDY_KEYS if key in settings and key not in ("space", "warm_start")}
    warm_start = tuple(Path(path) for path in settings.get("warm_start", ()))
    return StudySpec(space=space, seed=seed, warm_start=warm_start, **given)


def tune(environment: Environment) -> None:
    """Run the study that the environment describes; leave its state in `tuning.json`.

    Raises:
        FinepointError: what was given cannot be used, or no trial could be completed.
    """
    torch.set_num_threads(1)  # a head's matrices are too small to share, and one thread repeats exactly
    given = dict(environment.hyperparameters)
    settings = {key: given.pop(key) for key in STUDY_KEYS if key in given}
    spec = study_spec(settings, int(given.get("seed", 0)))
    Hyperparameters.from_mapping({name: value for name, value in given.items() if name in known_hyperparameters()})
    prepared = prepare(replace(environment, hyperparameters=given))
    emit("embedded", **prepared.count.to_json())
    with part("tuning"):
        state = run_study(environment.checkpoint_dir, spec, lambda trial: _run_trial(trial, prepared), Told())
    write_json(environment.output_data_dir / "tuning.json", _record(state, prepared))


def _run_trial(trial: Trial, prepared: Prepared) -> Mapping[str, float]:
    values = {**prepared.hyperparameters, **trial.hyperparameters, "seed": trial.seed}
    trained = train_head(prepared.data, Hyperparameters.from_mapping(values), on_epoch=trial.report)
    return trained.best


def _record(state: StudyState, prepared: Prepared) -> dict[str, Any]:
    best, seed = state.best, int(prepared.hyperparameters.get("seed", 0))
    return {
        "tuning": state.to_json(),
        # What the best trial was run with, so that training it again gives the same head.
        "best_hyperparameters": None
        if best is None
        else Hyperparameters.from_mapping(
            {**prepared.hyperparameters, **best.hyperparameters, "seed": trial_seed(seed, best.number)}
        ).to_json(),
        "backbones": backbones_json(prepared),
        "features": prepared.count.to_json(),
    }


def main() -> int:
    """Run the tuning job and return its exit code."""
    try:
        with storage_errors(), profiled(profiler_dir(), whole_process=True):
            tune(read_environment())
    except FinepointError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
