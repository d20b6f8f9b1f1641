"""When a trial need not go on: the median rule, and Hyperband's successive halving.

Both look only at trials that ended by themselves, and at a trial's own number rather than at the database's, so that a
study that was killed and resumed stops the same trials as an undisturbed one. (Optuna's own pruners count a killed
attempt as a trial.)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

from optuna.pruners import BasePruner, NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from finepoint.tuning.parameters import IntegerParameter, Parameter

_FACTOR = 2


def make_pruner(strategy: str, early_stopping: str, space: Mapping[str, Parameter], direction: str) -> BasePruner:
    """Return what decides when a trial is stopped: Hyperband, the median rule, or nothing."""
    if strategy == "hyperband":
        epochs = space.get("epochs")
        return Hyperband(int(epochs.max_value) if isinstance(epochs, IntegerParameter) else 27, direction)
    return MedianOfRunningAverages(direction) if early_stopping == "auto" else NopPruner()


class MedianOfRunningAverages(BasePruner):
    """Stops a trial whose objective is worse than the median of the completed trials that came as far.

    What is compared is their running averages up to the same epoch.

    Source: Amazon SageMaker's documentation of automatic model tuning, "Stop training jobs early".
    """

    def __init__(self, direction: str) -> None:
        self._sign = 1 if direction == "minimize" else -1

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether the trial is to be stopped after its latest report."""
        step = trial.last_step
        if step is None:
            return False
        averages = [
            statistics.fmean(value for at, value in other.intermediate_values.items() if at <= step)
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if step in other.intermediate_values
        ]
        value = trial.intermediate_values[step]
        return bool(averages) and self._sign * value > self._sign * statistics.median(averages)


class Hyperband(BasePruner):
    """Successive halving in several brackets, which differ in when they first stop trials.

    At epochs 1, 2, 4, ... a trial goes on only if it is among the better half of the trials of its bracket that came as
    far. Trials are dealt to the brackets in turn.

    Source: L. Li et al., "Hyperband", JMLR 18 (2018); asynchronously as in L. Li et al., "A system for massively
    parallel hyperparameter tuning", MLSys 2020.

    Args:
        epochs: that a trial can have at most.
        direction: `minimize` or `maximize`.
    """

    def __init__(self, epochs: int, direction: str) -> None:
        self._brackets = int(math.log(max(epochs, 1), _FACTOR)) + 1
        self._sign = 1 if direction == "minimize" else -1

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether the trial is to be stopped after its latest report."""
        step, bracket = trial.last_step, self._bracket(trial)
        if step is None or step not in _rungs(bracket, self._brackets):
            return False
        others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        rivals = [
            self._sign * other.intermediate_values[step]
            for other in others
            if "number" in other.user_attrs and self._bracket(other) == bracket and step in other.intermediate_values
        ]
        own = self._sign * trial.intermediate_values[step]
        better = sum(rival < own for rival in rivals)
        return better >= max(1, (len(rivals) + 1) // _FACTOR)

    def _bracket(self, trial: FrozenTrial) -> int:
        return int(trial.user_attrs["number"]) % self._brackets


def _rungs(bracket: int, brackets: int) -> Iterable[int]:
    """Return the epochs at which a bracket stops trials; the last bracket stops none."""
    return {_FACTOR**power for power in range(bracket, brackets - 1)}
