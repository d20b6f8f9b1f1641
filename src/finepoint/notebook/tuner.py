"""The tuner: a study whose trials are an estimator's jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finepoint.engines.jobs import find_job, job_name, start
from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.records import tuning_name
from finepoint.engines.trials import study_job
from finepoint.errors import ConfigurationError
from finepoint.notebook.arguments import settings_from, take, tell
from finepoint.notebook.estimator import PyTorch
from finepoint.notebook.session import channels_of, session_of
from finepoint.notebook.studies import AmtJob, LocalStudy, TunedJob
from finepoint.runs.folder import runs_dir
from finepoint.tuning.parameters import CategoricalParameter as CategoricalParameter
from finepoint.tuning.parameters import ContinuousParameter as ContinuousParameter
from finepoint.tuning.parameters import IntegerParameter as IntegerParameter
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
        random_seed: int | None = None,
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
        take("HyperparameterTuner", {"tags": tags, **others}, in_cloud=estimator.sagemaker_session.in_cloud)
        self.estimator = estimator
        self._settings = {**estimator._settings, **settings_from({"tags": tags})}
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
            seed=random_seed or 0,
        )
        self.latest_tuning_job: TunedJob | None = None

    @classmethod
    def attach(cls, tuning_job_name: str, sagemaker_session: Any = None) -> TunedJob:
        """Return what an earlier session's study found.

        Raises:
            NotFoundError: there is no such study.
        """
        if tuning_name(runs_dir() / tuning_job_name):
            return AmtJob(runs_dir() / tuning_job_name, session_of(sagemaker_session))
        return LocalStudy(find_job(tuning_job_name, runs_dir()))

    def fit(self, inputs: Any = None, job_name: str | None = None, wait: bool = True, **others: Any) -> None:
        """Run the study; arguments are those of `PyTorch.fit`.

        Raises:
            ConfigurationError: what was given cannot be used; all mistakes are listed.
            JobError: no trial could be completed.
        """
        take("HyperparameterTuner.fit", others, in_cloud=self.estimator.sagemaker_session.in_cloud)
        name = _name(self.base_tuning_job_name, job_name)
        estimator, folder = self.estimator, runs_dir() / name
        trial = estimator.spec(name, channels_of(inputs, estimator._input_mode))
        fixed = {key: value for key, value in trial.hyperparameters.items() if key not in self._study.space}
        trial = replace(trial, hyperparameters=fixed, metric_definitions=self._metrics or trial.metric_definitions)
        if estimator.sagemaker_session.in_cloud:
            session = estimator.sagemaker_session
            self.latest_tuning_job = AmtJob.start(folder, trial, self._study, session, self._settings)
        else:
            self.latest_tuning_job = LocalStudy(start(folder, study_job(name, self._study, trial)))
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
        return self._job().best_training_job()

    def best_estimator(self) -> PyTorch:
        """Return the estimator of the best trial's job."""
        return self._job().best_estimator()

    def analytics(self) -> TunedJob:
        """Return what the trials came to: `.dataframe()`."""
        return self._job()

    def deploy(self, initial_instance_count: int = 1, instance_type: str | None = None, **others: Any) -> Any:
        """Serve the best trial's model; arguments are those of `PyTorch.deploy`."""
        return self.best_estimator().deploy(initial_instance_count, instance_type, **others)

    def _repr_html_(self) -> str:
        return self._job()._repr_html_()

    def _job(self) -> TunedJob:
        if self.latest_tuning_job is None:
            raise ConfigurationError("the tuner has not been fitted yet; call .fit({...}) first")
        return self.latest_tuning_job


def _name(base: str, given: str | None) -> str:
    return job_name(base[:26], given)
