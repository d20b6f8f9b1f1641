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
from finepoint.engines.sagemaker.cloud import is_refused, is_taken
from finepoint.errors import CloudError, ConfigurationError
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
        gone: whether it is known to be stopped, or deleted, or never made.
        refused: whether AWS refused to make it.
        part_of: the endpoint that it was made for, or "".
    """

    kind: Kind
    name: str
    region: str
    recorded_at: str
    instance_type: str = ""
    gone: bool = False
    refused: bool = False
    part_of: str = ""


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

    def record(self, kind: Kind, name: str, region: str, instance_type: str = "", part_of: str = "") -> bool:
        """Write a resource down, before it is made, and return whether it was so already; twice is once."""
        new = Resource(kind, name, region, now(), instance_type, part_of=part_of)
        with self._locked() as resources:
            before = [one for one in resources if (one.kind, one.name) == (kind, name)]
            again = [replace(new, recorded_at=one.recorded_at) if one in before else one for one in resources]
            resources[:] = again if before else [*resources, new]
        return any(not one.gone for one in before)

    @contextmanager
    def creating(
        self, kind: Kind, name: str, region: str, instance_type: str = "", part_of: str = ""
    ) -> Iterator[None]:
        """Write a resource down that is created within; whether AWS refused it is written down, too.

        That it is there already, under a name that is its alone, is success: an earlier try's answer was lost.
        """
        there = self.record(kind, name, region, instance_type, part_of)
        try:
            yield
        except CloudError as error:
            if is_taken(error):
                return
            if is_refused(error) and not there:
                self._end(kind, name, refused=True)
            raise

    def strike(self, kind: Kind, name: str) -> None:
        """Write down that a resource is gone."""
        self._end(kind, name)

    def _end(self, kind: Kind, name: str, *, refused: bool = False) -> None:
        with self._locked() as resources:
            resources[:] = [
                replace(one, gone=True, refused=refused) if (one.kind, one.name) == (kind, name) else one
                for one in resources
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
