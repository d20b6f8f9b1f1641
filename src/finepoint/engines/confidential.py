"""Variables of a job that look like secrets: kept apart from its record, in a file that only its owner can read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finepoint.files import read_json, write_json

# In a record, in place of a value.
HIDDEN = "(secret)"
_FILE = "secrets.json"
_NAME = re.compile(r"(key|token|secret|password|passwd|passphrase|credential)s?($|_)", re.IGNORECASE)


def looks_secret(name: str) -> bool:
    """Return whether a variable's name says that its value is a secret.

    >>> [name for name in ("HF_TOKEN", "API_KEY_ID", "PGPASSWORD", "TOKENIZERS_PARALLELISM") if looks_secret(name)]
    ['HF_TOKEN', 'API_KEY_ID', 'PGPASSWORD']
    """
    return _NAME.search(name) is not None


def without_secrets(spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a job's spec, as JSON, with its secrets hidden, and these by name; of a study those of its trials.

    >>> without_secrets({"environment": {"API_KEY": "x", "DEBUG": "1"}})
    ({'environment': {'API_KEY': '(secret)', 'DEBUG': '1'}}, {'API_KEY': 'x'})
    """
    hidden, found = dict(spec), dict[str, str]()
    if environment := spec.get("environment"):
        found = {name: value for name, value in environment.items() if looks_secret(name)}
        hidden["environment"] = {**environment, **dict.fromkeys(found, HIDDEN)}
    trial = spec["hyperparameters"].get("trial") if spec.get("module") else None
    if isinstance(trial, Mapping):
        inner, more = without_secrets(trial)
        hidden["hyperparameters"] = {**spec["hyperparameters"], "trial": inner}
        found |= more
    return hidden, found


def with_secrets(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a job's spec, as JSON, with the secrets that `keep` left in a folder in their places."""
    kept = read_json(folder / _FILE) if (folder / _FILE).is_file() else {}
    environment = {
        name: kept.get(name, value) if value == HIDDEN else value for name, value in spec.get("environment", {}).items()
    }
    return {**spec, "environment": environment}


def keep(folder: Path, secrets: Mapping[str, str]) -> None:
    """Write a job's secrets into its folder, for whoever runs it on; none are there where it has none."""
    if secrets:
        write_json(folder / _FILE, dict(secrets), private=True)
    else:
        (folder / _FILE).unlink(missing_ok=True)
