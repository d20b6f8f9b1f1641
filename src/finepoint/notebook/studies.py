"""A study as the SDK shows it: its trials, the best of them, a table that grows while it runs."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finepoint.engines.jobs import state_of
from finepoint.engines.local import Watcher
from finepoint.engines.records import CLOUD_RECORD, JobFolder
from finepoint.engines.sagemaker import tuning as amt
from finepoint.engines.sagemaker.settings import load_settings
from finepoint.engines.sagemaker.training import SageMakerEngine
from finepoint.engines.spec import JobSpec
from finepoint.engines.trials import OUTPUT
from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.files import read_json
from finepoint.notebook.arguments import tell
from finepoint.notebook.display import Shown, html_progress, html_table
from finepoint.notebook.estimator import PyTorch
from finepoint.notebook.jobs import TrainingJob, readings
from finepoint.notebook.session import Session
from finepoint.tuning.study import StudySpec


class TunedJob(abc.ABC):
    """A study, and what its trials came to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.job_name = self.name = folder.name

    @abc.abstractmethod
    def wait(self) -> None:
        """Wait until it has ended."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it and its trials."""

    @abc.abstractmethod
    def best_training_job(self) -> str:
        """Return the name of the best trial's job."""

    @abc.abstractmethod
    def best_estimator(self) -> PyTorch:
        """Return the estimator of the best trial's job."""

    @abc.abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Return the trials so far, a dictionary each; the keys are the SDK's."""

    @abc.abstractmethod
    def max_jobs(self) -> int:
        """Return how many trials there are to be."""

    def dataframe(self) -> Any:
        """Return a pandas table with a row for each trial; the columns have the SDK's names."""
        try:
            import pandas
        except ImportError as error:
            raise ConfigurationError("dataframe() needs pandas; pip install 'finepoint[pandas]'") from error
        return pandas.DataFrame(self.rows())

    def _repr_html_(self) -> str:
        rows = self.rows()
        ended = sum(row["TrainingJobStatus"] != "InProgress" for row in rows)
        return html_progress(ended, max(self.max_jobs(), ended)) + html_table(rows)


class LocalStudy(TunedJob):
    """A study on this machine: a job whose trials are jobs in its folder."""

    def __init__(self, folder: JobFolder) -> None:
        super().__init__(folder.path)
        self._job = _Study(folder, self)

    def wait(self) -> None:
        """Wait until it has ended, printing a line for each trial.

        Raises:
            JobError: no trial could be completed.
        """
        self._job.wait()

    def stop(self) -> None:
        """End it and its trials."""
        self._job.stop()

    def best_training_job(self) -> str:
        """Return the name of the best trial's job."""
        path = self._folder / OUTPUT
        if not path.is_file():
            raise NotFoundError(f"study {self.name} has not ended; .wait() waits for it")
        return str(read_json(path)["best_job"])

    def best_estimator(self) -> PyTorch:
        """Return the estimator of the best trial's job."""
        return PyTorch._of(TrainingJob(JobFolder(self._folder / "trials" / self.best_training_job())))

    def rows(self) -> list[dict[str, Any]]:
        """Return the trials so far, each with the latest value of the objective."""
        study = self._settings()
        folders = sorted((self._folder / "trials").glob("*/job.json"))
        return [_row(JobFolder(path.parent), study) for path in folders]

    def max_jobs(self) -> int:
        """Return how many trials there are to be."""
        return int(self._settings()["max_jobs"])

    def _settings(self) -> Mapping[str, Any]:
        return dict(JobFolder(self._folder).read()["spec"]["hyperparameters"]["study"])


class _Study(TrainingJob):
    """The study's own job, which shows the trials."""

    def __init__(self, folder: JobFolder, study: LocalStudy) -> None:
        super().__init__(folder)
        self._study = study

    def _repr_html_(self) -> str:
        return self._study._repr_html_()


class AmtJob(TunedJob):
    """A study by SageMaker's automatic model tuning.

    Args:
        folder: that it is recorded in.
        session: of the cells.
    """

    def __init__(self, folder: Path, session: Session) -> None:
        super().__init__(folder)
        record = read_json(folder / CLOUD_RECORD)
        self._spec = JobFolder(folder).spec()
        self._max_jobs = int(record["max_jobs"])
        self._engine = SageMakerEngine(load_settings(**record["settings"]), session.cloud)
        self._session = session
        self._trials: list[Mapping[str, Any]] = []

    @classmethod
    def start(
        cls, folder: Path, trial: JobSpec, study: StudySpec, session: Session, settings: Mapping[str, Any]
    ) -> AmtJob:
        """Start the study.

        Args:
            folder: for its record.
            trial: what each trial runs.
            study: what is searched.
            session: of the cells.
            settings: of the engine, over the session's.
        """
        chosen = session.settings(**settings)
        searched = amt.AmtStudy(
            study.space,
            minimize=study.objective if study.direction == "minimize" else "",
            maximize=study.objective if study.direction == "maximize" else "",
            strategy=study.strategy,
            max_jobs=study.max_jobs,
            max_parallel_jobs=study.max_parallel_jobs,
            early_stopping=study.early_stopping,
            seed=study.seed,
        )
        amt.begin(SageMakerEngine(chosen, session.cloud), folder, trial, searched, Watcher(say=tell))
        return cls(folder, session)

    def wait(self) -> None:
        """Wait until it has ended, printing how many trials there are in each state.

        Raises:
            JobError: no trial ended with the objective's metric.
        """
        shown = Shown(self)

        def on_event(event: Mapping[str, Any]) -> None:
            self._trials = event["trials"]
            shown.refresh(last=True)

        amt.finish(self._engine, self._folder, self._spec, Watcher(say=tell, on_event=on_event))
        shown.refresh(last=True)

    def stop(self) -> None:
        """End it and its trials."""
        amt.stop(self._engine, self._folder)

    def best_training_job(self) -> str:
        """Return the name of the best trial's job in AWS."""
        return str(self._record()["best"]["training_job"])

    def best_estimator(self) -> PyTorch:
        """Return the estimator of the best trial's job, whose results are brought home."""
        best = self._record()["best"]
        job = JobFolder(amt.trial_folder(self._folder, best["training_job"]))
        if not job.model.is_file():
            self._engine.adopt(job.path, best["training_job"], amt.trial_spec(self._spec, best), Watcher(say=tell))
        return PyTorch._of(TrainingJob(job), self._session)

    def rows(self) -> list[dict[str, Any]]:
        """Return the trials as they were last seen."""
        trials = self._record()["trials"] if (self._folder / amt.RECORD).is_file() else self._trials
        return [
            {
                **trial["hyperparameters"],
                "TrainingJobName": trial["training_job"],
                "TrainingJobStatus": trial["status"],
                "FinalObjectiveValue": trial["objective"],
                "TrainingStartTime": trial["started_at"],
                "TrainingEndTime": trial["finished_at"],
                "TrainingElapsedTimeSeconds": trial["seconds"],
            }
            for trial in trials
        ]

    def max_jobs(self) -> int:
        """Return how many trials there are to be."""
        return self._max_jobs

    def _record(self) -> dict[str, Any]:
        path = self._folder / amt.RECORD
        if not path.is_file():
            raise NotFoundError(f"study {self.name} has not ended; .wait() waits for it")
        return dict(read_json(path))


def _row(folder: JobFolder, study: Mapping[str, Any]) -> dict[str, Any]:
    record = state_of(folder)
    value = record.get("metrics", {}).get(study["objective"])
    if value is None:
        value = next((row["value"] for row in reversed(readings(folder)) if row["name"] == study["objective"]), None)
    values = {name: record["spec"]["hyperparameters"].get(name) for name in study["space"]}
    return {
        **values,
        "TrainingJobName": folder.path.name,
        "TrainingJobStatus": record["status"],
        "FinalObjectiveValue": value,
        "TrainingStartTime": record["started_at"],
        "TrainingEndTime": record["finished_at"],
        "TrainingElapsedTimeSeconds": record.get("seconds"),
    }
