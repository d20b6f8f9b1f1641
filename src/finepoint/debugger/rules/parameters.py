"""A rule's parameters: typed fields of a dataclass, accepted as SageMaker passes them, which is as text."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from finepoint.errors import ConfigurationError

# SageMaker's configurations carry these beside a rule's own parameters; here the recording is an argument.
_NOT_PARAMETERS = {"base_trial", "rule_to_invoke"}


def parse_parameters(rule: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule's parameters as its types want them.

    Args:
        rule: a dataclass.
        given: values by name; text is converted, a list of text may be one text with commas.

    Raises:
        ConfigurationError: names or values that the rule does not know; all of them.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Example:
    ...     threshold: float = 0.1
    ...     tensor_regex: tuple[str, ...] = ()
    >>> parse_parameters(Example, {"threshold": "0.5", "tensor_regex": "conv.*, fc.*"})
    {'threshold': 0.5, 'tensor_regex': ('conv.*', 'fc.*')}
    """
    hints = typing.get_type_hints(rule)
    names = [item.name for item in dataclasses.fields(rule)]
    parsed: dict[str, Any] = {}
    mistakes = []
    for name, value in given.items():
        if name in _NOT_PARAMETERS:
            continue
        if name not in names:
            mistakes.append(f"{rule.__name__} has no parameter {name!r}; it has {', '.join(names) or 'none'}")
            continue
        try:
            parsed[name] = _convert(hints[name], value)
        except (TypeError, ValueError):
            mistakes.append(f"{rule.__name__}.{name} is {value!r}; it must be {_describe(hints[name])}")
    if mistakes:
        raise ConfigurationError(mistakes)
    return parsed


def _convert(kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none")):
            return None
        (kind,) = (item for item in typing.get_args(kind) if item is not type(None))
    if typing.get_origin(kind) is tuple:
        parts = value.split(",") if isinstance(value, str) else list(value)
        return tuple(_convert(typing.get_args(kind)[0], part) for part in parts if str(part).strip())
    if kind is bool:
        return _truth(value)
    if kind is int:
        number = float(value)
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if kind is float:
        return float(value)
    return str(value).strip()


def _truth(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError(value)
    return text in ("true", "1")


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return "a list, or text with commas"
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(item for item in typing.get_args(kind) if item is not type(None))
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
