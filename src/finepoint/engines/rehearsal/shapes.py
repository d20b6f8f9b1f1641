"""Requests and answers, checked against botocore's model of the SageMaker service."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import botocore.session

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "timestamp": (int, float, datetime.datetime),
    "blob": (bytes, str),
    "list": (list,),
    "map": (dict,),
    "structure": (dict,),
}


@lru_cache(maxsize=1)
def service() -> Any:
    """Return botocore's model of the service."""
    return botocore.session.get_session().get_service_model("sagemaker")


def problems(operation: str, value: Mapping[str, Any], *, answer: bool = False) -> list[str]:
    """Return what is wrong with a request, or an answer, of an operation.

    Types, required and unknown members, enumerations, lengths, ranges and patterns are checked; the service itself
    checks these before anything else.

    >>> problems("StopTrainingJob", {"Name": "a"})
    ['TrainingJobName is required', 'Name is unknown; there are TrainingJobName']
    """
    model = service().operation_model(operation)
    shape = model.output_shape if answer else model.input_shape
    if shape is None:
        return [f"{operation} takes nothing"] if value else []
    return list(_problems(shape, value, ""))


def _problems(shape: Any, given: object, at: str) -> Iterator[str]:
    kind = shape.type_name
    value: Any = given
    wrong_bool = isinstance(value, bool) and kind != "boolean"
    if not isinstance(given, _TYPES[kind]) or wrong_bool:
        yield f"{at} is {value!r}; it must be a {kind}"
        return
    yield from _outside(shape, value, at)
    if kind == "structure":
        members: Mapping[str, Any] = shape.members
        prefix = f"{at}." if at else ""
        yield from (f"{prefix}{name} is required" for name in shape.metadata.get("required", ()) if name not in value)
        for name, item in value.items():
            if name in members:
                yield from _problems(members[name], item, prefix + name)
            else:
                yield f"{prefix}{name} is unknown; there are {', '.join(members)}"
    elif kind == "list":
        for number, item in enumerate(value):
            yield from _problems(shape.member, item, f"{at}[{number}]")
    elif kind == "map":
        for name, item in value.items():
            yield from _problems(shape.key, name, f"{at} key")
            yield from _problems(shape.value, item, f"{at}.{name}")


def _outside(shape: Any, value: Any, at: str) -> Iterator[str]:
    bounds = shape.metadata
    size = len(value) if isinstance(value, str | bytes | list | dict) else value
    if not isinstance(size, datetime.datetime):
        if "min" in bounds and size < bounds["min"]:
            yield f"{at} is {value!r}; its size must be at least {bounds['min']}"
        if "max" in bounds and size > bounds["max"]:
            yield f"{at} is {value!r}; its size must be at most {bounds['max']}"
    choices = getattr(shape, "enum", None)
    if choices and value not in choices:
        yield f"{at} is {value!r}; it must be one of {', '.join(choices)}"
    if isinstance(value, str) and "pattern" in bounds and not _matches(bounds["pattern"], value):
        yield f"{at} is {value!r}; it must match {bounds['pattern']}"


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.fullmatch(pattern, value, re.DOTALL) is not None
    except re.error:
        return True  # a pattern of Java's that Python does not know
