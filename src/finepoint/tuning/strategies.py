"""How the next hyperparameters are chosen, and when a trial is stopped early; Optuna does both."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from finepoint.errors import ConfigurationError
from finepoint.tuning.parameters import CategoricalParameter, IntegerParameter, Parameter

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

Strategy = Literal["bayesian", "random", "grid", "hyperband"]
EarlyStopping = Literal["auto", "off"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

# Points that a grid takes from a continuous range.
_GRID_POINTS = 5
_STARTUP_TRIALS = 8


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of everything random in a trial; it depends on its number, not on what ran before.

    >>> trial_seed(0, 1) == trial_seed(0, 1) != trial_seed(0, 2)
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


def make_sampler(
    strategy: str, space: Mapping[str, Parameter], seed: int, number: int, *, parallel: bool
) -> BaseSampler:
    """Return the sampler that chooses the hyperparameters of one trial.

    It is made anew for each trial with a seed of the trial's own: a sampler that draws on from one seed comes to other
    values after a restart.
    """
    import optuna

    own = trial_seed(seed, number)
    if strategy == "random":
        return optuna.samplers.RandomSampler(seed=own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=own, n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=parallel
        )


def distributions(space: Mapping[str, Parameter]) -> dict[str, BaseDistribution]:
    """Return the space in Optuna's terms."""
    import optuna.distributions as kinds

    found: dict[str, BaseDistribution] = {}
    for name, parameter in space.items():
        if isinstance(parameter, CategoricalParameter):
            found[name] = kinds.CategoricalDistribution(parameter.values)
        elif isinstance(parameter, IntegerParameter):
            found[name] = kinds.IntDistribution(
                int(parameter.min_value), int(parameter.max_value), log=parameter.logarithmic
            )
        else:
            found[name] = kinds.FloatDistribution(parameter.min_value, parameter.max_value, log=parameter.logarithmic)
    return found


def grid(space: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """Return every point of the grid: all values of categories and integers, five of a continuous range.

    The points are ordered so that the first few are already spread over all of it.
    """
    axes = {name: _axis(parameter) for name, parameter in space.items()}
    points: list[dict[str, Any]] = [{}]
    for name, values in axes.items():
        points = [{**point, name: value} for point in points for value in values]
    # Evenly spread: step through the list with a stride that has no factor in common with its length.
    count = len(points)
    stride = next(n for n in range(max(1, round(count * 0.618)), count + 2) if _coprime(n, count))
    return [points[(index * stride) % count] for index in range(count)]


def check_strategy(strategy: str, early_stopping: str) -> None:
    """Check that the words are known and go together.

    Raises:
        ConfigurationError: they do not.
    """
    mistakes = []
    if strategy not in STRATEGIES:
        mistakes.append(f"strategy {strategy!r} is unknown; there are {', '.join(STRATEGIES)}")
    if early_stopping not in get_args(EarlyStopping):
        mistakes.append(f"early stopping {early_stopping!r} is unknown; there are auto, off")
    if strategy == "hyperband" and early_stopping == "auto":
        mistakes.append("hyperband stops trials itself; leave --early-stopping off")
    if mistakes:
        raise ConfigurationError(mistakes)


def _axis(parameter: Parameter) -> list[Any]:
    if isinstance(parameter, CategoricalParameter):
        return list(parameter.values)
    low, high = parameter.min_value, parameter.max_value
    shares = [index / (_GRID_POINTS - 1) for index in range(_GRID_POINTS)]
    if isinstance(parameter, IntegerParameter) and high - low < _GRID_POINTS:
        return list(range(int(low), int(high) + 1))
    if parameter.logarithmic:
        values = [low * (high / low) ** share for share in shares]
    else:
        values = [low + (high - low) * share for share in shares]
    if isinstance(parameter, IntegerParameter):
        return sorted({round(value) for value in values})
    # The ends exactly: rounding must not leave the range.
    return sorted({low, *values[1:-1], high})


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1
