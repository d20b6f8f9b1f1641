"""What was created in AWS: each resource is written down before it is made, and struck off when it is gone."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock

from finepoint.engines.records import now
from finepoint.errors import ConfigurationError
from finepoint.files import read_json, state_dir, write_json

Kind = Literal[
    "training-job", "tuning-job", "transform-job", "model", "endpoint-config", "endpoint", "scaling", "upload"
]


@dataclass(frozen=True)
class Resource:
    """One resource.

    Args:
        kind: of it.
        name: in AWS.
        region: where it is.
        recorded_at: when it was written down, which is before it was made.
        instance_type: what it runs on, or "".
        gone: whether it is known to be stopped, or deleted.
    """

    kind: Kind
    name: str
    region: str
    recorded_at: str
    instance_type: str = ""
    gone: bool = False


class Ledger:
    """The resources of one run, job or endpoint.

    Args:
        name: the run's, job's or endpoint's.
    """

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ConfigurationError(f"{name!r} is no name of a run, job or endpoint")
        self.name = name
        self._path = _folder() / f"{name}.json"

    def resources(self) -> list[Resource]:
        """Return everything that was written down, the oldest first."""
        return [Resource(**entry) for entry in read_json(self._path)] if self._path.is_file() else []

    def record(self, kind: Kind, name: str, region: str, instance_type: str = "") -> None:
        """Write a resource down, before it is made; twice is once."""
        with self._locked() as resources:
            if any((one.kind, one.name) == (kind, name) for one in resources):
                resources[:] = [
                    replace(one, gone=False) if (one.kind, one.name) == (kind, name) else one for one in resources
                ]
            else:
                resources.append(Resource(kind, name, region, now(), instance_type))

    def strike(self, kind: Kind, name: str) -> None:
        """Write down that a resource is gone."""
        with self._locked() as resources:
            resources[:] = [
                replace(one, gone=True) if (one.kind, one.name) == (kind, name) else one for one in resources
            ]

    @contextmanager
    def _locked(self) -> Iterator[list[Resource]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock", timeout=60):
            resources = self.resources()
            yield resources
            write_json(self._path, [asdict(one) for one in resources])


def ledgers() -> list[Ledger]:
    """Return every ledger on this machine, by name."""
    return [Ledger(path.stem) for path in sorted(_folder().glob("*.json"))]


def cloud_name(folder: Path, stem: str) -> str:
    """Return a job's name in AWS: made up once, written into its folder, and found there again by a later try.

    Names of training jobs can never be used twice in an account, hence the random end.
    """
    path = folder / "cloud.json"
    if path.is_file():
        return str(read_json(path)["name"])
    plain = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:50].strip("-") or "job"
    name = f"{plain}-{secrets.token_hex(4)}"
    write_json(path, {"name": name, "recorded_at": now()})
    return name


def forget_name(folder: Path) -> None:
    """Let the next try of a job in this folder have a new name."""
    (folder / "cloud.json").unlink(missing_ok=True)


def _folder() -> Path:
    return state_dir() / "sagemaker"
