"""A job: what is to be run, on what, and what became of it. Every engine takes the same spec."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from finepoint.engines.metrics import MetricDefinition
from finepoint.errors import ConfigurationError

JobStatus = Literal["InProgress", "Completed", "Failed", "Stopped"]
InputMode = Literal["File", "FastFile", "Pipe"]
Requirements = Literal["install", "offline"]
TORCH_DISTRIBUTED = "torch_distributed"

# What the official toolkit accepts as an entry point: a plain relative path.
_ENTRY_POINT = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._+-]*(/[A-Za-z0-9._+-]+)*")
_CHANNEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_MAX_HOSTS = 64


@dataclass(frozen=True)
class Channel:
    """One input of a job.

    Args:
        location: a folder or a file, with or without `file://`; `s3://BUCKET/PREFIX`; or a `.manifest` file of either.
        input_mode: `File` (copied before the start), `FastFile` (read as it is used), or in AWS `Pipe` (a stream). On
            this machine a channel is linked, so that the first two mean the same.
    """

    location: str
    input_mode: InputMode = "File"

    @property
    def path(self) -> Path:
        """The location as a path."""
        return Path(self.location.removeprefix("file://"))


@dataclass(frozen=True)
class Resources:
    """What a job runs on.

    Args:
        instance_count: hosts; on this machine each is a process.
        instance_type: `local`, or a cloud's machine type.
        cpus: cores for each host; None is all there are.
    """

    instance_count: int = 1
    instance_type: str = "local"
    cpus: int | None = None


@dataclass(frozen=True)
class Limits:
    """When a job is stopped.

    Args:
        max_run_seconds: after so long; None is never.
        stop_grace_seconds: between SIGTERM and SIGKILL. SageMaker gives a training job 120.
    """

    max_run_seconds: float | None = None
    stop_grace_seconds: float = 120.0


@dataclass(frozen=True)
class JobSpec:
    """A job as it is submitted; an engine runs it.

    Args:
        name: letters, digits and hyphens, at most 63.
        module: a Python module of finepoint's own, `finepoint.training`; or else
        entry_point: a script of the user's, relative to its
        source_dir: the folder that holds it and what it imports; or the script's file, which then comes alone.
        hyperparameters: JSON values by name.
        channels: inputs by name.
        resources: what it runs on.
        limits: when it is stopped.
        metric_definitions: what is read from its log.
        distribution: "" (one process a host) or `torch_distributed` (torchrun).
        requirements: what is done with a requirements.txt: `install`, or `offline` (take what is installed here).
        checkpoint_location: where checkpoints are kept; "" is the job's own folder.
        debugger: configuration of the debugger's recording, or None.
        profiler: configuration of the profiler's recording, or None.
        environment: variables to add to the processes'.
        tags: by name.

    >>> JobSpec("j", module="finepoint.training", hyperparameters={"lr": 0.1}).hyperparameters["lr"]
    0.1
    """

    name: str
    module: str = ""
    entry_point: str = ""
    source_dir: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    channels: Mapping[str, Channel] = field(default_factory=dict)
    resources: Resources = Resources()
    limits: Limits = Limits()
    metric_definitions: tuple[MetricDefinition, ...] = ()
    distribution: str = ""
    requirements: Requirements = "install"
    checkpoint_location: str = ""
    debugger: Mapping[str, Any] | None = None
    profiler: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mistakes = [*self._code_mistakes(), *self._input_mistakes(), *self._limit_mistakes()]
        if not _NAME.fullmatch(self.name):
            mistakes.insert(0, f"job name {self.name!r} must be letters, digits and hyphens, at most 63")
        if mistakes:
            raise ConfigurationError(mistakes)

    @property
    def is_script(self) -> bool:
        """Whether it runs a script of the user's."""
        return bool(self.entry_point)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return {**asdict(self), "metric_definitions": [asdict(metric) for metric in self.metric_definitions]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> JobSpec:
        """Return the spec that `to_json` wrote.

        Raises:
            ConfigurationError: what it names is not there any more; all mistakes are listed.
        """
        return cls(
            **{
                **value,
                "channels": {name: Channel(**channel) for name, channel in value["channels"].items()},
                "resources": Resources(**value["resources"]),
                "limits": Limits(**value["limits"]),
                "metric_definitions": tuple(MetricDefinition(**metric) for metric in value["metric_definitions"]),
            }
        )

    def _code_mistakes(self) -> list[str]:
        if bool(self.module) == bool(self.entry_point):
            return ["a job runs either a script (entry_point) or a module of finepoint's; give one of the two"]
        if self.distribution not in ("", TORCH_DISTRIBUTED):
            return [f"distribution {self.distribution!r} is not supported here; there is {TORCH_DISTRIBUTED}, or none"]
        if self.module:
            return []
        source = Path(self.source_dir)
        if not self.source_dir or not source.exists():
            return [f"source_dir {self.source_dir!r} does not exist"]
        if not _ENTRY_POINT.fullmatch(self.entry_point) or {".", ".."} & set(self.entry_point.split("/")):
            return [
                f"entry_point {self.entry_point!r} must be a path inside source_dir, of letters, digits and . _ + - /"
            ]
        if source.is_file():
            return (
                [] if source.name == self.entry_point else [f"source_dir {source} is not the {self.entry_point} file"]
            )
        packaged = (source / "setup.py").is_file() and not self.entry_point.endswith(".sh")
        if self.distribution and (packaged or not self.entry_point.endswith(".py")):  # torchrun takes no modules
            return [f"{TORCH_DISTRIBUTED} runs a Python script, not {self.entry_point!r}"]
        if not packaged and not (source / self.entry_point).is_file():
            there = ", ".join(sorted(path.name for path in source.iterdir() if path.is_file())[:8]) or "no files"
            return [f"entry_point {self.entry_point!r} is not in {source}; it holds {there}"]
        return []

    def _input_mistakes(self) -> list[str]:
        mistakes = []
        for name, channel in self.channels.items():
            if not _CHANNEL.fullmatch(name):
                mistakes.append(f"channel name {name!r} must be letters, digits, dots, hyphens and underscores")
            if channel.input_mode not in ("File", "FastFile", "Pipe"):
                mistakes.append(f"channel {name}: input mode {channel.input_mode!r}; give File, FastFile or Pipe")
            if "://" not in channel.location.removeprefix("file://") and not channel.path.exists():
                mistakes.append(f"channel {name}: {channel.path} does not exist")
        for name, value in self.hyperparameters.items():
            if not name or "\0" in name or "=" in name:
                mistakes.append(f"hyperparameter name {name!r} cannot be passed on")
            try:
                text = json.dumps(value)
            except (TypeError, ValueError) as error:
                mistakes.append(f"hyperparameter {name} is no JSON value: {error}")
            else:
                if "\\u0000" in text:
                    mistakes.append(f"hyperparameter {name} holds a NUL character, which no process can be handed")
        return mistakes

    def _limit_mistakes(self) -> list[str]:
        mistakes = []
        if not 1 <= self.resources.instance_count <= _MAX_HOSTS:
            mistakes.append(f"instance_count is {self.resources.instance_count}; it must be from 1 to {_MAX_HOSTS}")
        if self.module and self.resources.instance_count > 1:
            mistakes.append(f"{self.module} runs on one host; instance_count is {self.resources.instance_count}")
        if self.resources.cpus is not None and self.resources.cpus < 1:
            mistakes.append(f"cpus is {self.resources.cpus}; it must be at least 1")
        if self.limits.max_run_seconds is not None and self.limits.max_run_seconds <= 0:
            mistakes.append(f"max_run_seconds is {self.limits.max_run_seconds}; it must be above 0")
        if self.limits.stop_grace_seconds < 0:
            mistakes.append(f"stop_grace_seconds is {self.limits.stop_grace_seconds}; it must be at least 0")
        if self.requirements not in ("install", "offline"):
            mistakes.append(f"requirements is {self.requirements!r}; it must be install or offline")
        if self.debugger is not None:
            from finepoint.engines.debugging import (
                configuration_mistakes,  # here, because its rules take long to import
            )

            mistakes += configuration_mistakes(self.debugger)
        if self.profiler is not None:
            from finepoint.engines.profiling import profiler_configuration  # here, for the same reason

            try:
                profiler_configuration(**self.profiler)
            except (TypeError, ConfigurationError) as error:
                mistakes.append(f"the profiler's configuration is wrong: {error}")
        names = [metric.name for metric in self.metric_definitions]
        mistakes += [f"metric {name} is defined twice" for name in sorted({n for n in names if names.count(n) > 1})]
        for metric in self.metric_definitions:
            mistakes += metric.mistakes()
        return mistakes


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Args:
        status: `Completed`, `Failed` or `Stopped`.
        exit_code: of its process; negative for a signal.
        folder: the job's.
        failure: its last words, where it failed, or why it was stopped.
        seconds: that it ran.
        metrics: the latest value of each metric that was read from its log.
    """

    status: JobStatus
    exit_code: int
    folder: Path
    failure: str
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
