"""A job on disk: its record `job.json`, and where its parts lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from finepoint.engines.confidential import keep, with_secrets, without_secrets
from finepoint.engines.spec import JobSpec, JobStatus
from finepoint.files import read_json, write_json
from finepoint.models.building import versions

CLOUD_RECORD = "sagemaker.json"
# In it, of a study; a job has another name there.
TUNING_JOB = "tuning_job"
RECORD = "job.json"


@dataclass(frozen=True)
class JobFolder:
    """A job's folder."""

    path: Path

    @property
    def record(self) -> Path:
        """What the job is and what became of it."""
        return self.path / RECORD

    @property
    def logs(self) -> Path:
        """What its processes printed."""
        return self.path / "logs.txt"

    @property
    def metrics(self) -> Path:
        """What was read from that, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def failure(self) -> Path:
        """Why it failed, as SageMaker's toolkit writes it."""
        return self.path / "output" / "failure"

    @property
    def model(self) -> Path:
        """The packed model."""
        return self.path / "output" / "model.tar.gz"

    def read(self) -> dict[str, Any]:
        """Return the content of `job.json`.

        Raises:
            InputError: it is missing or damaged.
        """
        return dict(read_json(self.record))

    def spec(self) -> JobSpec:
        """Return the job as it was submitted, with its secrets.

        Raises:
            InputError: the record is missing or damaged, or what it names is not there any more.
        """
        return JobSpec.from_json(with_secrets(self.read()["spec"], self.path))

    def begin(self, spec: JobSpec, *, starting: bool = False) -> None:
        """Write that the job is in progress, watched by this process, which may be `starting` its supervisor only.

        Variables that look like secrets are not in the record, but in a file beside it.
        """
        hidden, secrets = without_secrets(spec.to_json())
        keep(self.path, secrets)
        write_json(
            self.record,
            {
                "schema_version": 1,
                "spec": hidden,
                "status": "InProgress",
                "exit_code": None,
                "failure": "",
                "started_at": now(),
                "finished_at": None,
                "metrics": {},
                "starting": starting,
                "pid": os.getpid(),
                "process_started": psutil.Process().create_time(),
                "versions": versions(),
            },
            private=True,
        )

    def finish(self, status: JobStatus, **values: Any) -> None:
        """Write what became of the job."""
        write_json(self.record, {**self.read(), "status": status, "finished_at": now(), **values}, private=True)


def in_cloud(folder: Path) -> bool:
    """Return whether the job of a folder was submitted to SageMaker; its supervisor is AWS then."""
    return (folder / CLOUD_RECORD).is_file()


def tuning_name(folder: Path) -> str:
    """Return the name in AWS of the study of a folder; "" where there is none, or a job of another kind."""
    return str(read_json(folder / CLOUD_RECORD).get(TUNING_JOB, "")) if in_cloud(folder) else ""


def supervisor_of(record: dict[str, Any]) -> psutil.Process | None:
    """Return the process that watches a job, if it still runs."""
    try:
        process = psutil.Process(int(record["pid"]))
        same = abs(process.create_time() - float(record["process_started"])) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
