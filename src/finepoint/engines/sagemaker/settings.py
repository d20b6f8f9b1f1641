"""Where and on what jobs run in AWS: `[sagemaker]` of `finepoint.toml`, and `--cloud KEY=VALUE` over it."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finepoint.errors import ConfigurationError

FILE = "finepoint.toml"
_TABLE = "sagemaker"
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_INSTANCE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
# CreateTrainingJob's own bounds.
_MAX_RUN = (1, 2419200)
_VOLUME = (1, 16384)


@dataclass(frozen=True)
class SageMakerSettings:
    """What the SageMaker engine needs to know.

    Args:
        role: ARN of the role that jobs and endpoints run as.
        bucket: where data, code, models and checkpoints are put.
        prefix: before every key in it.
        region: "" takes boto3's (`AWS_REGION`, the profile's).
        instance_type: for training.
        instance_count: hosts of a training job; a job's own spec goes before.
        inference_instance_type: for endpoints and batch transform.
        image: for training; "" takes AWS's PyTorch image from the table.
        inference_image: likewise.
        volume_gib: disk of a training host.
        max_run_seconds: a training job is stopped after so long; a job's own limit goes before.
        spot: use spare machines, which cost less and may be taken away; the job then goes on from its checkpoints.
        max_wait_seconds: with spot, for waiting and running together; 0 is twice `max_run_seconds`.
        keep_alive_seconds: keep the machine warm so long for the next job, which costs as running does.
        subnets: of a VPC that jobs run in, with `security_groups`.
        kms_key: encrypts volumes and what is written to S3; "" leaves that to the account.
        tags: on everything that is created.
        max_price: refuse what may cost more US dollars.
        poll_seconds: between two looks at a job.
    """

    role: str = ""
    bucket: str = ""
    prefix: str = "finepoint"
    region: str = ""
    instance_type: str = "ml.m5.xlarge"
    instance_count: int = 1
    inference_instance_type: str = "ml.m5.large"
    image: str = ""
    inference_image: str = ""
    volume_gib: int = 30
    max_run_seconds: int = 14400
    spot: bool = False
    max_wait_seconds: int = 0
    keep_alive_seconds: int = 0
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    kms_key: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    max_price: float | None = None
    poll_seconds: float = 5.0

    def __post_init__(self) -> None:
        mistakes = []
        if not _ROLE.fullmatch(self.role):
            mistakes.append(f"role is {self.role!r}; it must be a role's ARN, arn:aws:iam::123456789012:role/NAME")
        if not _BUCKET.fullmatch(self.bucket):
            mistakes.append(f"bucket is {self.bucket!r}; it must be the name of an S3 bucket of yours")
        mistakes += [
            f"{name} is {getattr(self, name)!r}; it must be of the form ml.m5.xlarge"
            for name in ("instance_type", "inference_instance_type")
            if not _INSTANCE.fullmatch(getattr(self, name))
        ]
        bounds = {"max_run_seconds": _MAX_RUN, "volume_gib": _VOLUME, "instance_count": (1, 64)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                mistakes.append(f"{name} is {getattr(self, name)}; it must be from {low} to {high}")
        if not 0 <= self.keep_alive_seconds <= 3600:
            mistakes.append(f"keep_alive_seconds is {self.keep_alive_seconds}; it must be from 0 to 3600")
        if self.spot and self.keep_alive_seconds:
            mistakes.append("spot machines cannot be kept warm; give spot or keep_alive_seconds")
        if self.max_wait_seconds and self.max_wait_seconds < self.max_run_seconds:
            mistakes.append(f"max_wait_seconds is {self.max_wait_seconds}; it must be at least max_run_seconds")
        if bool(self.subnets) != bool(self.security_groups):
            mistakes.append("a VPC needs both subnets and security_groups")
        if self.max_price is not None and self.max_price <= 0:
            mistakes.append(f"max_price is {self.max_price}; it must be above 0 US dollars")
        if self.poll_seconds <= 0:
            mistakes.append(f"poll_seconds is {self.poll_seconds}; it must be above 0")
        if mistakes:
            raise ConfigurationError([f"sagemaker {mistake}" for mistake in mistakes])

    def uri(self, *parts: str) -> str:
        """Return an address under the prefix.

        >>> SageMakerSettings(role="arn:aws:iam::123456789012:role/r", bucket="photos").uri("code", "a.tar.gz")
        's3://photos/finepoint/code/a.tar.gz'
        """
        return "/".join(("s3:/", self.bucket, *([self.prefix.strip("/")] if self.prefix.strip("/") else []), *parts))


def load_settings(given: Sequence[str] = (), folder: Path | None = None, **over: Any) -> SageMakerSettings:
    """Return the settings of `finepoint.toml`, with what was given on the command line over them.

    Args:
        given: `KEY=VALUE` each.
        folder: that holds the file; by default the current one.
        over: settings that are not None go before all.

    Raises:
        ConfigurationError: keys or values are wrong; all are listed.
    """
    path = (folder or Path()) / FILE
    values = _read(path) if path.is_file() else {}
    mistakes = []
    for text in given:
        key, separator, value = text.partition("=")
        if not separator:
            mistakes.append(f"--cloud {text!r} is not KEY=VALUE")
        values[key.strip().replace("-", "_")] = value
    values |= {key: value for key, value in over.items() if value is not None}
    known = {item.name: item for item in dataclasses.fields(SageMakerSettings)}
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            mistakes.append(f"sagemaker {key} is no setting; there are {', '.join(known)}")
            continue
        try:
            settings[key] = _convert(str(known[key].type), value)
        except (TypeError, ValueError, KeyError, AttributeError):
            mistakes.append(f"sagemaker {key} is {value!r}; it must be a {known[key].type}")
    try:
        found = SageMakerSettings(**settings)
    except ConfigurationError as error:
        raise ConfigurationError([*mistakes, *error.mistakes, f"write them into {path}, or give --cloud"]) from None
    if mistakes:
        raise ConfigurationError(mistakes)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get(_TABLE, {})
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be used: {error}") from error
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: sagemaker must be a table, [sagemaker]")
    return table


def _convert(kind: str, value: Any) -> Any:
    if kind == "bool" and isinstance(value, str):
        return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
    if kind.startswith("tuple"):
        return (
            tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else tuple(value)
        )
    if kind.startswith("Mapping"):
        if isinstance(value, str):
            return dict(part.split(":", 1) for part in value.split(",") if part)
        return {str(key): str(item) for key, item in value.items()}
    if kind == "int":
        return int(value)
    if kind.startswith("float"):
        return float(value)
    return str(value) if kind == "str" else value
