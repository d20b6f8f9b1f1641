"""What is known of a study at a moment: the `tuning` object of `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

TrialStatus = Literal["running", "completed", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial, over all of its attempts.

    Args:
        number: from 0.
        status: `completed`, `stopped` early, `failed`, or `running`.
        hyperparameters: those that were chosen.
        value: of the objective, or None.
        seconds: of the last attempt.
        attempts: 1, or 2 where the first was killed or failed.
        epochs: what it reported, a record each.
        reason: why it failed or was stopped, or "".
    """

    number: int
    status: TrialStatus
    hyperparameters: Mapping[str, Any]
    value: float | None
    seconds: float
    attempts: int = 1
    epochs: tuple[Mapping[str, Any], ...] = ()
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return {**asdict(self), "epochs": list(self.epochs)}


@dataclass(frozen=True, slots=True)
class StudyState:
    """A study at a moment.

    Args:
        strategy: and `objective`, `direction`: what was asked for.
        trials: by number.
        importance: each hyperparameter's share of the objective's variance, or empty when too few trials tell.
        seconds: in which at least one trial ran.
    """

    strategy: str
    objective: str
    direction: str
    max_jobs: int
    trials: tuple[TrialRecord, ...]
    importance: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def best(self) -> TrialRecord | None:
        """The completed trial with the best objective; of equals, the first."""
        done = [trial for trial in self.trials if trial.status == "completed" and trial.value is not None]
        if not done:
            return None
        sign = 1 if self.direction == "minimize" else -1
        return min(done, key=lambda trial: (sign * (trial.value or 0.0), trial.number))

    def to_json(self) -> dict[str, Any]:
        """Return the `tuning` object of `summary.json`."""
        best = self.best
        return {
            "strategy": self.strategy,
            "objective": self.objective,
            "direction": self.direction,
            "max_jobs": self.max_jobs,
            "trials": [trial.to_json() for trial in self.trials],
            "best": best
            and {"number": best.number, "hyperparameters": dict(best.hyperparameters), "value": best.value},
            "importance": dict(self.importance),
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StudyState:
        """Return the state that `to_json` wrote."""
        trials = tuple(TrialRecord(**{**trial, "epochs": tuple(trial["epochs"])}) for trial in value["trials"])
        kept = ("strategy", "objective", "direction", "max_jobs", "importance", "seconds")
        return cls(trials=trials, **{key: value[key] for key in kept})
