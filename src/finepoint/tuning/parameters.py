"""The ranges that are searched, in SageMaker's words, from Python, from flags, or from a file.

A space file is TOML or JSON: a table for each hyperparameter, or the same short form as on the command line::

    lr = "0.001:0.1:log"
    batch_size = [64, 128]
    epochs = { type = "integer", min_value = 2, max_value = 4 }
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from finepoint.errors import ConfigurationError

Scaling = Literal["Auto", "Linear", "Logarithmic"]
_SCALINGS = {"log": "Logarithmic", "logarithmic": "Logarithmic", "linear": "Linear", "lin": "Linear", "auto": "Auto"}
# What the trainer accepts for each hyperparameter: its bounds, or its choices.
Known = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class ContinuousParameter:
    """A real number in [min_value, max_value].

    Args:
        min_value: the lowest.
        max_value: the highest.
        scaling_type: `Linear`, `Logarithmic`, or `Auto`: logarithmic from a ratio of 100 on.

    >>> ContinuousParameter(0.001, 0.1).logarithmic
    True
    """

    min_value: float
    max_value: float
    scaling_type: Scaling = "Auto"

    def __post_init__(self) -> None:
        _check_range(self.min_value, self.max_value, self.scaling_type)

    @property
    def logarithmic(self) -> bool:
        """Whether values are drawn evenly on a logarithmic scale."""
        return _is_logarithmic(self.min_value, self.max_value, self.scaling_type)


@dataclass(frozen=True, slots=True)
class IntegerParameter:
    """A whole number in min_value..max_value, both included; `scaling_type` as for a continuous one."""

    min_value: int
    max_value: int
    scaling_type: Scaling = "Auto"

    def __post_init__(self) -> None:
        _check_range(self.min_value, self.max_value, self.scaling_type)
        if int(self.min_value) != self.min_value or int(self.max_value) != self.max_value:
            raise ConfigurationError(f"{self.min_value}:{self.max_value} is not a range of whole numbers")

    @property
    def logarithmic(self) -> bool:
        """Whether values are drawn evenly on a logarithmic scale."""
        return _is_logarithmic(self.min_value, self.max_value, self.scaling_type)


@dataclass(frozen=True, slots=True)
class CategoricalParameter:
    """One of several values, without an order."""

    values: tuple[Any, ...]

    def __init__(self, values: Sequence[Any]) -> None:
        object.__setattr__(self, "values", tuple(values))
        if not self.values:
            raise ConfigurationError("a categorical parameter needs at least one value")
        if len({json.dumps(value) for value in self.values}) != len(self.values):
            raise ConfigurationError(f"a value stands twice in {', '.join(map(str, self.values))}")


Parameter = ContinuousParameter | IntegerParameter | CategoricalParameter
Space = dict[str, Parameter]


def parse_range(text: str) -> tuple[str, Parameter]:
    """Return name and parameter of `NAME=LOW:HIGH[:log]` or `NAME=VALUE,VALUE,...`.

    A range of two whole numbers is an integer one.

    Raises:
        ConfigurationError: it is neither.

    >>> parse_range("epochs=2:4")
    ('epochs', IntegerParameter(min_value=2, max_value=4, scaling_type='Auto'))
    """
    name, separator, values = text.partition("=")
    if not separator or not name.strip() or not values.strip():
        raise ConfigurationError(f"range {text!r} is not NAME=LOW:HIGH[:log] or NAME=VALUE,VALUE,...")
    return name.strip(), _parse_values(values.strip())


def load_space(path: Path) -> Space:
    """Return the space in a TOML or JSON file; the module's docstring has the form.

    Raises:
        ConfigurationError: it cannot be read, or entries are wrong; all are listed.
    """
    try:
        content = path.read_text(encoding="utf-8")
        value = tomllib.loads(content) if path.suffix.lower() == ".toml" else json.loads(content)
    except OSError as error:
        raise ConfigurationError(f"space file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"space file {path} is neither TOML nor JSON: {error}") from error
    if not isinstance(value, dict) or not value:
        raise ConfigurationError(f"space file {path} names no hyperparameters")
    return space_from_json(value)


def space_from_json(value: Mapping[str, Any]) -> Space:
    """Return the space that `space_to_json` wrote, or that a space file holds.

    Raises:
        ConfigurationError: entries are wrong; all are listed.
    """
    space: Space = {}
    mistakes = []
    for name, entry in value.items():
        try:
            space[name] = _parse_entry(entry)
        except ConfigurationError as error:
            mistakes += [f"{name}: {mistake}" for mistake in error.mistakes]
    if mistakes:
        raise ConfigurationError(mistakes)
    return space


def space_to_json(space: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return a JSON object with an entry for each hyperparameter."""
    kinds = {ContinuousParameter: "continuous", IntegerParameter: "integer", CategoricalParameter: "categorical"}
    return {
        name: {
            "type": kinds[type(parameter)],
            **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(parameter).items()},
        }
        for name, parameter in space.items()
    }


def check_space(space: Mapping[str, Parameter], known: Known) -> None:
    """Check that a trainer knows the hyperparameters and accepts every value of the ranges.

    Args:
        space: what is searched.
        known: (lowest, highest) or the choices of each hyperparameter of the trainer.

    Raises:
        ConfigurationError: unknown names or values out of bounds; all are listed.
    """
    mistakes = []
    for name, parameter in space.items():
        if name not in known:
            mistakes.append(f"{name} is no hyperparameter; there are {', '.join(known)}")
            continue
        bounds = known[name]
        numeric = all(isinstance(bound, int | float) for bound in bounds)
        if isinstance(parameter, CategoricalParameter):
            values: Sequence[Any] = parameter.values
        else:
            values = (parameter.min_value, parameter.max_value)
        for value in values:
            if not numeric and value not in bounds:
                mistakes.append(f"{name} is {value!r}; it must be one of {', '.join(map(str, bounds))}")
            elif numeric and not (isinstance(value, int | float) and bounds[0] <= value <= bounds[1]):
                mistakes.append(f"{name} is {value!r}; it must be a number from {bounds[0]} to {bounds[1]}")
    if mistakes:
        raise ConfigurationError(mistakes)


def _parse_entry(entry: Any) -> Parameter:
    if isinstance(entry, str):
        return _parse_values(entry)
    if isinstance(entry, list):
        return CategoricalParameter(entry)
    if not isinstance(entry, Mapping):
        raise ConfigurationError(f"{entry!r} is no range; write LOW:HIGH[:log], a list, or a table with `type`")
    fields = dict(entry)
    kind = str(fields.pop("type", "categorical" if "values" in fields else "continuous")).lower()
    kinds = {"continuous": ContinuousParameter, "integer": IntegerParameter, "categorical": CategoricalParameter}
    if kind not in kinds:
        raise ConfigurationError(f"type {kind!r} is unknown; there are {', '.join(kinds)}")
    try:
        parameter: Parameter = kinds[kind](**fields)
    except TypeError:
        wanted = "values" if kind == "categorical" else "min_value, max_value and perhaps scaling_type"
        raise ConfigurationError(f"a {kind} range has {wanted}, not {', '.join(fields) or 'nothing'}") from None
    return parameter


def _parse_values(text: str) -> Parameter:
    parts = [part.strip() for part in text.split(":")]
    if len(parts) in (2, 3) and "," not in text:
        low, high = _number(parts[0]), _number(parts[1])
        scaling = _SCALINGS.get(parts[2].lower()) if len(parts) == 3 else "Auto"
        if isinstance(low, str) or isinstance(high, str) or scaling is None:
            raise ConfigurationError(f"{text!r} is not LOW:HIGH or LOW:HIGH:log with two numbers")
        if isinstance(low, int) and isinstance(high, int):
            return IntegerParameter(low, high, scaling)  # type: ignore[arg-type]
        return ContinuousParameter(float(low), float(high), scaling)  # type: ignore[arg-type]
    if ":" in text:
        raise ConfigurationError(f"{text!r} is neither LOW:HIGH[:log] nor VALUE,VALUE,...")
    return CategoricalParameter([_number(part.strip()) for part in text.split(",")])


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def _check_range(low: float, high: float, scaling: str) -> None:
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (low, high)):
        raise ConfigurationError(f"{low!r}:{high!r} is not a range of two numbers")
    if low > high:
        raise ConfigurationError(f"{low}:{high} runs backwards; write the lower number first")
    if scaling not in ("Auto", "Linear", "Logarithmic"):
        raise ConfigurationError(f"scaling {scaling!r} is unknown; there are Auto, Linear, Logarithmic")
    if scaling == "Logarithmic" and low <= 0:
        raise ConfigurationError(f"{low}:{high} cannot be logarithmic; both numbers must be above 0")


def _is_logarithmic(low: float, high: float, scaling: str) -> bool:
    return scaling == "Logarithmic" or (scaling == "Auto" and low > 0 and high / low >= 100)


# The reference workflow's.
DEFAULT_SPACE: Mapping[str, Parameter] = {
    "lr": ContinuousParameter(0.001, 0.1, "Logarithmic"),
    "batch_size": CategoricalParameter((64, 128)),
    "epochs": IntegerParameter(2, 4),
}
