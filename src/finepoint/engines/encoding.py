"""How SageMaker's training toolkit hands values over: as variables and as arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Hyperparameters that are the platform's own; a script does not see them.
_OWN_PREFIX = "sagemaker_"
# What a tuner gives each of its trials.
OBJECTIVE = "_tuning_objective_metric"
_OWN = (OBJECTIVE, "default_user_module_name")


def user_hyperparameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that a script sees.

    >>> user_hyperparameters({"lr": 0.1, "sagemaker_program": "train.py"})
    {'lr': 0.1}
    """
    return {name: value for name, value in values.items() if not name.startswith(_OWN_PREFIX) and name not in _OWN}


def platform_hyperparameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the platform's own hyperparameters that frameworks read (`SM_FRAMEWORK_PARAMS`)."""
    known = ("program", "submit_directory", "enable_cloudwatch_metrics", "region", "container_log_level", "job_name")
    plain = {f"{_OWN_PREFIX}{name}" for name in (*known, "s3_output")}
    return {name: value for name, value in values.items() if name.startswith(_OWN_PREFIX) and name not in plain}


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Return hyperparameters as a command line, sorted by name.

    A name of one letter gets one hyphen, null is an empty string, and an object becomes `a=1,b=2`.

    >>> as_arguments({"lr": 0.1, "flag": True, "h": None, "aug": {"flip": 1}})
    ['--aug', 'flip=1', '--flag', 'True', '-h', '', '--lr', '0.1']
    """
    arguments = []
    for name in sorted(values):
        arguments += [f"--{name}" if len(name) > 1 else f"-{name}", _argument(values[name])]
    return arguments


def as_variable(value: Any) -> str:
    """Return a value as a variable's text: strings as they are, null as nothing, anything else as compact JSON.

    >>> as_variable({"b": True, "a": None})
    '{"a":null,"b":true}'
    """
    if value is None:
        return ""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def parse_hyperparameter(text: str) -> Any:
    """Return the value that the text after `NAME=` means: JSON where it is JSON, else the text.

    >>> parse_hyperparameter("0.1"), parse_hyperparameter("adam"), parse_hyperparameter("true")
    (0.1, 'adam', True)
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _argument(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={item}" for name, item in sorted(value.items()))
    return str(value)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
