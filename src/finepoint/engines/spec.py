"""A job: what is to be run, on what, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from finepoint.errors import ConfigurationError

JobStatus = Literal["InProgress", "Completed", "Failed", "Stopped"]


@dataclass(frozen=True)
class JobSpec:
    """A job as it is submitted; an engine runs it.

    Args:
        name: letters, digits and hyphens, at most 63.
        module: the Python module that is run: `finepoint.training`.
        hyperparameters: JSON values by name.
        channels: name to a folder of images.
        environment: variables to add to the process's.
    """

    name: str
    module: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    channels: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mistakes = []
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", self.name):
            mistakes.append(f"job name {self.name!r} must be letters, digits and hyphens, at most 63")
        mistakes += [
            f"channel {name}: {path} is not a folder" for name, path in self.channels.items() if not path.is_dir()
        ]
        if mistakes:
            raise ConfigurationError(mistakes)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return {**asdict(self), "channels": {name: str(path) for name, path in self.channels.items()}}


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Args:
        status: `Completed`, `Failed` or `Stopped`.
        exit_code: of its process; negative for a signal.
        folder: the job's.
        failure: its last words, where it failed.
        seconds: that it ran.
    """

    status: JobStatus
    exit_code: int
    folder: Path
    failure: str
    seconds: float
