"""The registry of the endpoints on this machine: a JSON file each, written atomically.

One lock is held while a file is read and written, never longer. Whoever deploys, updates or removes an endpoint holds
that endpoint's own lock meanwhile, so that nobody waits for another endpoint. An entry is first its deployer's; the
supervisor makes it its own before anything is loaded, and writes down what it serves: whoever is killed, the entry
tells what runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from finepoint.errors import ConfigurationError, EndpointError, InputError
from finepoint.files import read_json, state_dir, write_json

_PATIENCE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """An endpoint as it was deployed.

    Args:
        name: unique on this machine.
        url: `http://127.0.0.1:PORT`.
        pid: of the server's process.
        process_started: its start time in seconds since the epoch, so that another process that got
            the same number is not taken for it.
        model: path of the package.
        model_version: of the package.
        started_at: when it was deployed, UTC.
        settings: what an update cannot change, by its flag: address, access, capture.
    """

    name: str
    url: str
    pid: int
    process_started: float
    model: str
    model_version: str
    started_at: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def process(self) -> psutil.Process | None:
        """Return the server's process if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.process_started) < 1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def check_name(name: str) -> None:
    """Check an endpoint's name by SageMaker's rule.

    Raises:
        ConfigurationError: it breaks the rule.
    """
    if not re.fullmatch(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,62}", name):
        raise ConfigurationError(f"endpoint name {name!r} must be letters, digits and single hyphens, at most 63")


def folder() -> Path:
    """Return the registry's folder."""
    return state_dir() / "endpoints"


def log_path(name: str) -> Path:
    """Return where an endpoint's server writes its log."""
    return folder() / f"{name}.log"


def request_log_path(name: str) -> Path:
    """Return where an endpoint's requests are noted."""
    return folder() / f"{name}.requests.jsonl"


def wanted_path(name: str) -> Path:
    """Return where an update of an endpoint is written down for its supervisor."""
    return folder() / "updates" / f"{name}.wanted"


def outcome_path(name: str) -> Path:
    """Return where an endpoint's supervisor writes how an update went."""
    return folder() / "updates" / f"{name}.outcome"


@contextmanager
def locked() -> Iterator[None]:
    """Hold the registry's lock, for as long as an entry is read and written."""
    folder().mkdir(parents=True, exist_ok=True)
    with FileLock(folder() / ".lock", timeout=_PATIENCE_SECONDS):
        yield


@contextmanager
def locked_name(name: str) -> Iterator[None]:
    """Hold an endpoint's lock: nobody else deploys, updates or removes it meanwhile.

    Raises:
        EndpointError: somebody else has held it for two minutes.
    """
    folder().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder() / f".{name}.lock", timeout=_PATIENCE_SECONDS):
            yield
    except Timeout as error:
        raise EndpointError(
            f"another command has been deploying or removing endpoint {name!r} for {_PATIENCE_SECONDS} s; "
            "wait for it, or stop it"
        ) from error


def write(record: EndpointRecord) -> None:
    """Write an endpoint's entry."""
    write_json(folder() / f"{record.name}.json", asdict(record))


def change(name: str, pid: int, /, **changes: Any) -> bool:
    """Change fields of an endpoint's entry if it is still that process's, and return whether it was."""
    with locked():
        record = find(name)
        if record is None or record.pid != pid:
            return False
        write(replace(record, **changes))
    return True


def forget(name: str, pid: int) -> EndpointRecord | None:
    """Remove an endpoint's entry if it is still that process's; return the entry that is another's instead, if any."""
    with locked():
        record = find(name)
        if record is not None and record.pid != pid:
            return record
        remove(name)
    return None


def remove(name: str) -> None:
    """Remove an endpoint's entry, if there is one, and what belongs to it."""
    for path in (wanted_path(name), outcome_path(name)):
        path.unlink(missing_ok=True)
    (folder() / f"{name}.json").unlink(missing_ok=True)


def find(name: str) -> EndpointRecord | None:
    """Return an endpoint's entry, or None."""
    path = folder() / f"{name}.json"
    return _read(path) if path.is_file() else None


def read_all() -> list[EndpointRecord]:
    """Return every entry, by name; damaged ones are left out."""
    found = [_read(path) for path in sorted(folder().glob("*.json"))]
    return [record for record in found if record is not None]


def _read(path: Path) -> EndpointRecord | None:
    try:
        value: Mapping[str, Any] = read_json(path)
        return EndpointRecord(**value)
    except (InputError, TypeError):
        return None
