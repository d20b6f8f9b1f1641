"""What a run was asked for: one definition for the command line, Python, and `run.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from finepoint.errors import ConfigurationError
from finepoint.training.hyperparameters import METRICS, Hyperparameters, known_hyperparameters
from finepoint.tuning.parameters import (
    DEFAULT_SPACE,
    CategoricalParameter,
    ContinuousParameter,
    IntegerParameter,
    Parameter,
    check_space,
    space_from_json,
    space_to_json,
)
from finepoint.tuning.study import StudySpec

_PARAMETERS = (ContinuousParameter, IntegerParameter, CategoricalParameter)


@dataclass(frozen=True)
class RunOptions:
    """The settings of a run.

    Args:
        path: a folder of images or a manifest.
        seed: of everything random.
        test_fraction: share of each class set aside for the test where there is no test part, 0.01..0.5.
        valid_fraction: likewise for validation.
        backbone: one or several names, joined by commas.
        weights: nothing (pretrained), or a file or `random` for each backbone, joined by commas.
        runtime: what computes features; `auto` takes the fastest here.
        precision: `auto`, `f32` or `bf16`.
        hyperparameters: of the trainer, fixed; what is fixed is not searched.
        space: a range for each hyperparameter that is searched, as JSON or as parameters; the default is the
            reference workflow's.
        strategy: `bayesian`, `random`, `grid` or `hyperband`.
        objective: the metric that decides between trials.
        max_jobs: trials in all.
        max_parallel_jobs: trials at once.
        early_stopping: `auto` or `off`.
        warm_start: earlier runs to learn from.
        debug: record the final training and judge it by the debugger's rules.
        profile: record where the run's time goes.
        thumbnails: small pictures of so many training images go into the package, 0..2000.
    """

    path: str
    seed: int = 0
    test_fraction: float = 0.1
    valid_fraction: float = 0.1
    backbone: str = "efficientnet_lite0"
    weights: str = ""
    runtime: str = "auto"
    precision: str = "auto"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)
    strategy: str = "bayesian"
    objective: str = "valid_loss"
    max_jobs: int = 20
    max_parallel_jobs: int = 1
    early_stopping: str = "off"
    warm_start: tuple[str, ...] = ()
    debug: bool = True
    profile: bool = True
    thumbnails: int = 0

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} is {getattr(self, name)}; it must be from 0.01 to 0.5"
            for name in ("test_fraction", "valid_fraction")
            if not 0.01 <= getattr(self, name) <= 0.5
        ]
        if not 0 <= self.seed < 2**32:
            mistakes.append(f"seed is {self.seed}; it must be from 0 to 4294967295")
        if not 0 <= self.thumbnails <= 2000:
            mistakes.append(f"thumbnails is {self.thumbnails}; it must be from 0 to 2000")
        for check in (self._check_hyperparameters, self._check_objective, self._check_study):
            try:
                check()
            except ConfigurationError as error:
                mistakes += error.mistakes
        if mistakes:
            raise ConfigurationError(mistakes)

    @property
    def searched(self) -> dict[str, Parameter]:
        """The space: the default one with `space` over it, less what is fixed."""
        given = space_from_json(
            {name: value for name, value in self.space.items() if not isinstance(value, _PARAMETERS)}
        )
        given |= {name: value for name, value in self.space.items() if isinstance(value, _PARAMETERS)}
        clash = [name for name in given if name in self.hyperparameters]
        if clash:
            raise ConfigurationError(f"{', '.join(clash)} is both fixed and searched; give one of the two")
        default = {name: value for name, value in DEFAULT_SPACE.items() if name not in self.hyperparameters}
        return {**default, **given}

    def study_settings(self) -> dict[str, Any]:
        """Return the settings of the tuning job."""
        return {
            # In pairs, because a job's variables keep no order of names, and the sampler draws in the user's.
            "space": list(space_to_json(self.searched).items()),
            "strategy": self.strategy,
            "objective": self.objective,
            "max_jobs": self.max_jobs,
            "max_parallel_jobs": self.max_parallel_jobs,
            "early_stopping": self.early_stopping,
        }

    def feature_settings(self) -> dict[str, Any]:
        """Return the settings that decide the features."""
        return {name: getattr(self, name) for name in ("backbone", "weights", "runtime", "precision")}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        space = {
            name: space_to_json({name: value})[name] if isinstance(value, _PARAMETERS) else value
            for name, value in self.space.items()
        }
        return {**asdict(self), "space": space, "warm_start": list(self.warm_start)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunOptions:
        """Return the options that `to_json` wrote."""
        return cls(**{**value, "warm_start": tuple(value["warm_start"])})

    def differences(self, other: RunOptions) -> list[str]:
        """Return the names of the settings in which two differ, except for `profile`, which changes no result."""
        ours, theirs = self.to_json(), other.to_json()
        return [item.name for item in fields(self) if item.name != "profile" and ours[item.name] != theirs[item.name]]

    def _check_hyperparameters(self) -> None:
        Hyperparameters.from_mapping(self.hyperparameters)

    def _check_objective(self) -> None:
        if self.objective not in METRICS and not self.objective.startswith("test"):
            raise ConfigurationError(f"objective {self.objective!r} is not recorded; there are {', '.join(METRICS)}")

    def _check_study(self) -> None:
        space = self.searched
        check_space(space, known_hyperparameters())
        StudySpec(
            space=space or {"seed": CategoricalParameter((0,))},
            strategy=self.strategy,
            objective=self.objective,
            max_jobs=self.max_jobs,
            max_parallel_jobs=self.max_parallel_jobs,
            early_stopping=self.early_stopping,
        )
