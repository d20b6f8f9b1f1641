"""A run's folder: where things are in it, how it is found, and its record `run.json`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finepoint.errors import ConfigurationError, InputError, NotFoundError
from finepoint.files import exists, read_json, read_json_lines, write_bytes, write_json

RECORD = "run.json"
_KEYS = frozenset({"kind", "status", "command", "started_at", "finished_at", "options", "steps"})


def runs_dir(given: Path | None = None) -> Path:
    """Return the folder that holds runs: the given one, `$FINEPOINT_RUNS`, or `runs` here."""
    return given or Path(os.environ.get("FINEPOINT_RUNS") or "runs")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk.

    Args:
        path: the run's folder; its name is the run's.
    """

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def data(self) -> Path:
        """What was found in the data, and its splits."""
        return self.path / "data.json"

    @property
    def tuning(self) -> Path:
        """The tuning job."""
        return self.path / "tuning"

    @property
    def training(self) -> Path:
        """The training job."""
        return self.path / "training"

    @property
    def package(self) -> Path:
        """The package's folder, as the training job left it."""
        return self.training / "model"

    @property
    def evaluation(self) -> Path:
        """Predictions and metrics."""
        return self.path / "evaluation"

    @property
    def model(self) -> Path:
        """The packed model."""
        return self.path / "model.tar.gz"

    @property
    def quantisation(self) -> Path:
        """What the model in int8 costs and gives, where that was asked."""
        return self.path / "quantisation.json"

    @property
    def summary(self) -> Path:
        """The machine's copy of the report."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def read(self) -> dict[str, Any]:
        """Return the content of `run.json`.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            record = read_json(self.path / RECORD)
        except InputError as error:
            raise InputError(f"{error}; delete {self.path} to begin anew, or give another --run") from error
        if not isinstance(record, dict) or _KEYS - record.keys():
            raise InputError(
                f"{self.path / RECORD} is damaged; delete {self.path} to begin anew, or give another --run"
            )
        return record

    def exists(self) -> bool:
        """Return whether there is a run in the folder.

        Raises:
            InputError: there are parts of one, but no `run.json` that says what they were made with.
        """
        if (self.path / RECORD).is_file():
            return True
        parts = [path.name for path in (self.data, self.tuning, self.training, self.evaluation) if path.exists()]
        if parts:
            raise InputError(
                f"{self.path} holds {', '.join(parts)} of a run, but its {RECORD} is gone; "
                "delete the folder to begin anew, or give another --run"
            )
        return False

    def write(self, record: Mapping[str, Any]) -> None:
        """Write `run.json`."""
        write_json(self.path / RECORD, dict(record))

    def count_reading(self, purpose: str) -> int:
        """Note in the ledger that the test part is read now, and return how often it was."""
        readings = [*self.readings(), {"at": now(), "purpose": purpose}]
        text = "".join(json.dumps(reading) + "\n" for reading in readings)
        write_bytes(self.evaluation / "ledger.jsonl", text.encode())
        return len(readings)

    def readings(self) -> list[dict[str, str]]:
        """Return every reading of the test part, with time and purpose."""
        ledger = self.evaluation / "ledger.jsonl"
        return read_json_lines(ledger) if ledger.is_file() else []


def create_or_open(directory: Path, name: str | None, data_path: str) -> RunFolder:
    """Return the run of this name, whose folder is made if it is not there; without a name a new one.

    Raises:
        ConfigurationError: the name cannot be a folder's.
        InputError: the folder cannot be made.
    """
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(data_path).resolve().stem).strip("-")[:40] or "run"
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        candidates = (f"{stem}-{stamp}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 100))))
        for candidate in candidates:
            with suppress(FileExistsError):
                return _make(directory / candidate, new=True)
    if name is None or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigurationError(
            f"run name {name!r} must begin with a letter or digit and hold only those, dots, hyphens and underscores"
        )
    return _make(directory / name)


def _make(path: Path, *, new: bool = False) -> RunFolder:
    try:
        path.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        if new and isinstance(error, FileExistsError) and path.exists():
            raise  # another process has just taken this name
        raise InputError(
            f"{path} cannot be made ({error.strerror}); give --runs-dir with a folder that you may write to"
        ) from error
    return RunFolder(path)


def find_run(given: str | Path, directory: Path | None = None) -> RunFolder:
    """Return the run that a name or a path means.

    Raises:
        NotFoundError: there is none; the latest ones are named.
    """
    for path in (Path(given), runs_dir(directory) / str(given)):
        if exists(path / RECORD):
            return RunFolder(path)
    known = [folder.name for folder in list_runs(directory)][:5]
    hint = f"the latest are {', '.join(known)}" if known else f"there are none in {runs_dir(directory)}"
    raise NotFoundError(f"no run {str(given)!r}; {hint} (`finepoint runs` lists them)")


def list_runs(directory: Path | None = None) -> list[RunFolder]:
    """Return the runs, the latest first."""
    found = [RunFolder(path.parent) for path in runs_dir(directory).glob(f"*/{RECORD}")]
    return sorted(found, key=lambda folder: (folder.path / RECORD).stat().st_mtime, reverse=True)


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
