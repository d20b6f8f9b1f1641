"""The tuner: a study whose trials are an estimator's jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finepoint.engines.jobs import find_job, job_name, start, state_of
from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.records import JobFolder
from finepoint.engines.trials import OUTPUT, study_job
from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.files import read_json
from finepoint.notebook.arguments import take, tell
from finepoint.notebook.display import html_table
from finepoint.notebook.estimator import PyTorch, TrainingJob
from finepoint.notebook.session import channels_of
from finepoint.runs.folder import runs_dir
from finepoint.tuning.parameters import Parameter
from finepoint.tuning.study import StudySpec

_STRATEGIES = {"Bayesian": "bayesian", "Random": "random", "Grid": "grid", "Hyperband": "hyperband"}


class HyperparameterTuner:
    """A search by the SDK's `HyperparameterTuner`; docs/notebook.md says what each argument does here.

    Raises:
        ConfigurationError: arguments are wrong, or would change the result and are not supported here.
    """

    def __init__(
        self,
        estimator: PyTorch,
        objective_metric_name: str,
        hyperparameter_ranges: Mapping[str, Parameter],
        metric_definitions: Sequence[Mapping[str, str]] | None = None,
        strategy: str = "Bayesian",
        objective_type: str = "Maximize",
        max_jobs: int = 1,
        max_parallel_jobs: int = 1,
        tags: Any = None,
        base_tuning_job_name: str | None = None,
        early_stopping_type: str = "Off",
        random_seed: int = 0,
        **others: Any,
    ) -> None:
        mistakes = [
            f"{name} is {value!r}; it must be one of {', '.join(allowed)}"
            for name, value, allowed in (
                ("strategy", strategy, tuple(_STRATEGIES)),
                ("objective_type", objective_type, ("Maximize", "Minimize")),
                ("early_stopping_type", early_stopping_type, ("Off", "Auto")),
            )
            if value not in allowed
        ]
        if mistakes:
            raise ConfigurationError(mistakes)
        take("HyperparameterTuner", {"tags": tags, **others})
        self.estimator = estimator
        self.base_tuning_job_name = base_tuning_job_name or estimator.base_job_name
        self._metrics = tuple(MetricDefinition(metric["Name"], metric["Regex"]) for metric in metric_definitions or ())
        self._study = StudySpec(
            space=dict(hyperparameter_ranges),
            strategy=_STRATEGIES[strategy],
            objective=objective_metric_name,
            goal="minimize" if objective_type == "Minimize" else "maximize",
            max_jobs=max_jobs,
            max_parallel_jobs=max_parallel_jobs,
            early_stopping=early_stopping_type.lower(),
            seed=random_seed,
        )
        self.latest_tuning_job: TrainingJob | None = None

    @classmethod
    def attach(cls, tuning_job_name: str, sagemaker_session: Any = None) -> TunedJob:
        """Return what an earlier session's study found.

        Raises:
            NotFoundError: there is no such study.
        """
        return TunedJob(find_job(tuning_job_name, runs_dir()))

    def fit(self, inputs: Any = None, job_name: str | None = None, wait: bool = True, **others: Any) -> None:
        """Run the study; arguments are those of `PyTorch.fit`.

        Raises:
            ConfigurationError: what was given cannot be used; all mistakes are listed.
            JobError: no trial could be completed.
        """
        take("fit", {name: value for name, value in others.items() if name != "include_cls_metadata"})
        name = _name(self.base_tuning_job_name, job_name)
        trial = self.estimator.spec(name, channels_of(inputs))
        fixed = {key: value for key, value in trial.hyperparameters.items() if key not in self._study.space}
        metrics = self._metrics or trial.metric_definitions
        spec = study_job(name, self._study, replace(trial, hyperparameters=fixed, metric_definitions=metrics))
        self.latest_tuning_job = TrainingJob(start(runs_dir() / name, spec))
        tell(f"Study {name}")
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until the study has ended, printing a line for each trial.

        Raises:
            JobError: no trial could be completed.
        """
        self._job().wait()

    def stop_tuning_job(self) -> None:
        """End the study and its trials."""
        self._job().stop()

    def best_training_job(self) -> str:
        """Return the name of the best trial's job."""
        return TunedJob(self._job().folder).best_training_job()

    def best_estimator(self) -> PyTorch:
        """Return the estimator of the best trial's job."""
        return TunedJob(self._job().folder).best_estimator()

    def analytics(self) -> TunedJob:
        """Return what the trials came to: `.dataframe()`."""
        return TunedJob(self._job().folder)

    def deploy(self, initial_instance_count: int = 1, instance_type: str | None = None, **others: Any) -> Any:
        """Serve the best trial's model; arguments are those of `PyTorch.deploy`."""
        return self.best_estimator().deploy(initial_instance_count, instance_type, **others)

    def _job(self) -> TrainingJob:
        if self.latest_tuning_job is None:
            raise ConfigurationError("the tuner has not been fitted yet; call .fit({...}) first")
        return self.latest_tuning_job


class TunedJob:
    """A study, and what its trials came to."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder

    def best_training_job(self) -> str:
        """Return the name of the best trial's job."""
        return str(self._record()["best_job"])

    def best_estimator(self) -> PyTorch:
        """Return the estimator of the best trial's job."""
        return PyTorch._of(TrainingJob(JobFolder(self._trials() / self.best_training_job())))

    def dataframe(self) -> Any:
        """Return a pandas table with a row for each trial; the columns have the SDK's names."""
        try:
            import pandas
        except ImportError as error:
            raise ConfigurationError("dataframe() needs pandas; pip install 'finepoint[pandas]'") from error
        return pandas.DataFrame(self.rows())

    def _repr_html_(self) -> str:
        return html_table(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table as dictionaries."""
        rows = []
        for trial in self._record()["tuning"]["trials"]:
            suffix = "" if trial["attempts"] == 1 else f"-{trial['attempts']}"
            folder = JobFolder(self._trials() / f"{self._folder.path.name[:50]}-{trial['number']:03d}{suffix}")
            record = state_of(folder)
            rows.append(
                {
                    **trial["hyperparameters"],
                    "TrainingJobName": folder.path.name,
                    "TrainingJobStatus": record["status"],
                    "FinalObjectiveValue": trial["value"],
                    "TrainingStartTime": record["started_at"],
                    "TrainingEndTime": record["finished_at"],
                    "TrainingElapsedTimeSeconds": trial["seconds"],
                }
            )
        return rows

    def _record(self) -> dict[str, Any]:
        path = self._folder.path / OUTPUT
        if not path.is_file():
            raise NotFoundError(f"study {self._folder.path.name} has not ended; .wait() waits for it")
        return dict(read_json(path))

    def _trials(self) -> Path:
        return self._folder.path / "trials"


def _name(base: str, given: str | None) -> str:
    return job_name(base[:26], given)
