"""What was asked of AWS under a name, so that what is found under that name is never taken for something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finepoint.errors import ConfigurationError
from finepoint.files import digest_of

_SHOWN = 60
# What tells the entries of a request's lists apart.
_KEYS = ("ChannelName", "Key", "Name")
_VARIABLES = "Environment"
_CODE = "sagemaker_submit_directory"


def asked(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is written down of a request: all of it, but of the variables, which may be secrets, a digest.

    >>> "secret" in str(asked({"RoleArn": "r", "Environment": {"TOKEN": "secret"}}))
    False
    """
    return {key: _kept(key, value) for key, value in request.items()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return where two requests that were written down differ, and how.

    >>> differences({"HyperParameters": {"lr": "0.1"}}, {"HyperParameters": {"lr": "0.2"}, "RoleArn": "r"})
    ["HyperParameters.lr was '0.1' and is '0.2'", "RoleArn was not given and is 'r'"]
    """
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{path} was {_shown(old, path)} and is {_shown(new, path)}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def refuse_another(what: str, run: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Check that what is under a name is what is asked for now.

    Args:
        what: the thing, with its state, for the message.
        run: name of its ledger.
        before: what was written down of the request that it was made by; None where nothing was.
        now: what would be written down of the request of now.

    Raises:
        ConfigurationError: it is not; all that differs is listed.
    """
    found = ["what was asked of it is not written down"] if before is None else differences(before, now)
    if found:
        remedy = f"Give another --run, or what it was begun with; `finepoint cleanup {run}` ends what runs"
        raise ConfigurationError(f"{what}, but {'; '.join(found)}. {remedy}")


def without_code(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training job's request without the address of its code."""
    values = request.get("HyperParameters", {})
    return {**request, "HyperParameters": {name: value for name, value in values.items() if name != _CODE}}


def _kept(key: str, value: Any) -> Any:
    if key == _VARIABLES:
        return digest_of(value)
    return asked(value) if isinstance(value, Mapping) else value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _leaves(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            keys = [str(entry[key]) for key in _KEYS if key in entry] if isinstance(entry, Mapping) else []
            yield from _leaves(entry, f"{path}[{keys[0] if keys else number}]")
    else:
        yield path, value


def _shown(leaves: Mapping[str, Any], path: str) -> str:
    if path not in leaves:
        return "not given"
    if path.endswith(_VARIABLES):
        return f"other variables ({str(leaves[path])[:8]})"
    text = repr(leaves[path])
    return text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}"
