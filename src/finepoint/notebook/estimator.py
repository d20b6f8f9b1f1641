"""The estimator: a script's job, fitted, judged, deployed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finepoint.engines.jobs import find_job, state_of
from finepoint.engines.jobs import job_name as made_name
from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.records import CLOUD_RECORD, JobFolder, in_cloud
from finepoint.engines.sagemaker.images import image_for
from finepoint.engines.spec import TORCH_DISTRIBUTED, JobSpec, Limits, Resources
from finepoint.errors import ConfigurationError
from finepoint.files import read_json
from finepoint.notebook.arguments import settings_from, take, tell
from finepoint.notebook.debugging import debugger_of, profiler_of
from finepoint.notebook.display import html_table
from finepoint.notebook.jobs import TrainingJob, encoded
from finepoint.notebook.model import PyTorchModel
from finepoint.notebook.session import channels_of, local_path, session_of
from finepoint.runs.folder import runs_dir

_CHECKPOINTS = "/opt/ml/checkpoints"
# The name of AWS's image tells the versions.
_OUR_IMAGE = re.compile(r"/pytorch-training:([\d.]+)-.*-(py\d+)")
# What `deploy` hands on to the model.
_OF_THE_MODEL = ("entry_point", "source_dir", "predictor_cls", "image_uri", "vpc_config", "role", "model_kms_key")


class PyTorch:
    """A script by the SDK's `PyTorch` estimator; docs/notebook.md says what each argument does here.

    Raises:
        ConfigurationError: arguments that would change the result and are not supported here; all are named.
    """

    def __init__(
        self,
        entry_point: str,
        framework_version: str | None = None,
        py_version: str | None = None,
        source_dir: str | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        image_uri: str | None = None,
        distribution: Mapping[str, Any] | None = None,
        role: str | None = None,
        instance_count: int = 1,
        instance_type: str | None = None,
        *,
        base_job_name: str | None = None,
        metric_definitions: Sequence[Mapping[str, str]] | None = None,
        rules: Sequence[Any] | None = None,
        debugger_hook_config: Any = None,
        profiler_config: Any = None,
        max_run: float | None = None,
        checkpoint_s3_uri: str | None = None,
        checkpoint_local_path: str | None = None,
        environment: Mapping[str, str] | None = None,
        input_mode: str | None = None,
        disable_profiler: bool = False,
        **others: Any,
    ) -> None:
        mistakes = []
        if checkpoint_local_path not in (None, _CHECKPOINTS):
            mistakes.append(f"checkpoint_local_path is {checkpoint_local_path!r}; here it is always {_CHECKPOINTS}")
        self.sagemaker_session = session_of(others.pop("sagemaker_session", None))
        aws = self.sagemaker_session.in_cloud
        modes = (None, "File", "FastFile", "Pipe") if aws else (None, "File", "FastFile")
        if input_mode not in modes:
            mistakes.append(f"input_mode is {input_mode!r}; here it is {', '.join(str(mode) for mode in modes[1:])}")
        cloud = {"framework_version": framework_version, "py_version": py_version, "image_uri": image_uri}
        given = {**cloud, "role": role, "instance_type": instance_type, **others}
        try:
            self._distribution = _distribution_of(distribution)
        except ConfigurationError as error:
            mistakes += error.mistakes
        try:
            kept = take("PyTorch", given, in_cloud=aws)
        except ConfigurationError as error:
            mistakes += error.mistakes
        if mistakes:
            raise ConfigurationError(mistakes)
        self.entry_point, self.source_dir = entry_point, source_dir
        self.base_job_name = base_job_name or Path(entry_point).stem
        self.metric_definitions = tuple(
            MetricDefinition(metric["Name"], metric["Regex"]) for metric in metric_definitions or ()
        )
        self.instance_count, self.max_run, self.role = instance_count, max_run, role
        self.checkpoint_s3_uri = checkpoint_s3_uri
        self.output_path = f"{runs_dir().resolve()}/"  # cells add the job's name to it
        self.latest_training_job: TrainingJob | None = None
        self._hyperparameters = dict(hyperparameters or {})
        self._environment = dict(environment or {})
        self._tags = {} if aws else kept  # in AWS tags are bounded, and the request itself is on record
        self._given = given
        self._input_mode = input_mode
        self._settings = settings_from({**given, "max_run": max_run}) if aws else {}
        if aws and framework_version and not image_uri:
            self._settings["image"] = image_for(
                "training",
                self.sagemaker_session.boto_region_name,
                instance_type or self.sagemaker_session.settings(**self._settings).instance_type,
                version=framework_version,
                python=py_version or "",
            )
        self._debugger = debugger_of(rules or (), debugger_hook_config)
        self._profiler = None if disable_profiler else profiler_of(rules or (), profiler_config)

    @classmethod
    def attach(cls, training_job_name: str, sagemaker_session: Any = None) -> PyTorch:
        """Return the estimator of a job of an earlier session.

        Raises:
            NotFoundError: there is no such job.
        """
        return cls._of(TrainingJob(find_job(training_job_name, runs_dir())), sagemaker_session)

    @classmethod
    def _of(cls, job: TrainingJob, session: Any = None) -> PyTorch:
        spec = state_of(job.folder)["spec"]
        submitted = _submitted(job) if session_of(session).in_cloud else {}
        alone = Path(spec["source_dir"]).is_file()  # the script came without a folder
        entry_point, source = (spec["source_dir"], None) if alone else (spec["entry_point"], spec["source_dir"])
        made = cls(entry_point, source_dir=source, sagemaker_session=session, **submitted)
        made._hyperparameters = dict(spec["hyperparameters"])
        made.metric_definitions = tuple(MetricDefinition(**metric) for metric in spec["metric_definitions"])
        made.instance_count = spec["resources"]["instance_count"]
        made.latest_training_job = job
        return made

    def hyperparameters(self) -> dict[str, str]:
        """Return the hyperparameters as the SDK does: JSON-encoded, so that text has quotation marks around it."""
        if self.latest_training_job is not None:
            return encoded(state_of(self.latest_training_job.folder)["spec"])
        return {name: json.dumps(value) for name, value in self._hyperparameters.items()}

    def set_hyperparameters(self, **values: Any) -> None:
        """Set or replace hyperparameters."""
        self._hyperparameters |= values

    def fit(
        self, inputs: Any = None, wait: bool = True, logs: Any = True, job_name: str | None = None, **others: Any
    ) -> None:
        """Run the script on data.

        Args:
            inputs: a folder, or a folder by channel; also `s3://` addresses and manifests.
            wait: until it has ended; otherwise it goes on in the background.
            logs: print what it prints; "None", also in a list, does not.
            job_name: of the job; by default made from base_job_name and the time.
            others: recorded (experiment_config) or refused.

        Raises:
            ConfigurationError: what was given cannot be used; all mistakes are listed.
            JobError: the script failed.
        """
        take("fit", others, in_cloud=self.sagemaker_session.in_cloud)
        spec = self.spec(made_name(self.base_job_name, job_name), channels_of(inputs, self._input_mode))
        folder = JobFolder(runs_dir() / spec.name)
        self.latest_training_job = TrainingJob.start(self.sagemaker_session, spec, folder, self._settings)
        tell(f"Job {spec.name}")
        if wait:
            self.latest_training_job.wait(bool(logs) and "None" not in (logs if isinstance(logs, list) else [logs]))

    def spec(self, name: str, channels: Mapping[str, Any]) -> JobSpec:
        """Return the job that `fit` runs."""
        source = Path(self.source_dir) if self.source_dir else Path(self.entry_point)
        return JobSpec(
            name,
            entry_point=self.entry_point if self.source_dir and source.is_dir() else Path(self.entry_point).name,
            source_dir=str(source.resolve()),
            hyperparameters=self._hyperparameters,
            channels=channels,
            resources=Resources(self.instance_count),
            limits=Limits(self.max_run),
            metric_definitions=self.metric_definitions,
            distribution=self._distribution,
            checkpoint_location=local_path(self.checkpoint_s3_uri) if self.checkpoint_s3_uri else "",
            debugger=self._debugger,
            profiler=self._profiler,
            environment=self._environment,
            tags=self._tags,
        )

    @property
    def model_data(self) -> str:
        """Where the job's model.tar.gz is."""
        return str(self._job().folder.model)

    def logs(self) -> None:
        """Print what the job printed so far."""
        self._job().logs()

    def latest_job_debugger_artifacts_path(self) -> str:
        """Return where `create_trial` finds the job's recording: of its own hook, or else what was recorded of it."""
        return self._job().debug_output()

    def latest_job_profiler_artifacts_path(self) -> str:
        """Return the folder of the job's profile."""
        return str(self._job().folder.path / "profiler-output")

    def rule_job_summary(self) -> list[dict[str, Any]]:
        """Return what the rules say of the job; `Error` and `NotApplicable` are no pass."""
        return self._job().rule_job_summary()

    def create_model(self, **others: Any) -> PyTorchModel:
        """Return the job's model, to be served by the script or by the entry_point that is given."""
        entry_point = others.pop("entry_point", self.entry_point)
        source_dir = others.pop("source_dir", self.source_dir)
        others.setdefault("sagemaker_session", self.sagemaker_session)
        own = {name: self._given.get(name) for name in ("role", "framework_version", "py_version")}
        if self.sagemaker_session.in_cloud and self._given.get("subnets"):
            network = {"Subnets": self._given["subnets"], "SecurityGroupIds": self._given.get("security_group_ids")}
            own["vpc_config"] = network
        own |= others
        return PyTorchModel(self.model_data, entry_point=entry_point, source_dir=source_dir, **own)

    def deploy(self, initial_instance_count: int = 1, instance_type: str | None = None, **others: Any) -> Any:
        """Serve the job's model; arguments are those of `PyTorchModel.deploy`, and some of `PyTorchModel`.

        In AWS the endpoint has the estimator's versions, VPC, key and tags where none are given.
        """
        own = {name: others.pop(name) for name in _OF_THE_MODEL if name in others}
        if self.sagemaker_session.in_cloud:
            others.setdefault("tags", self._given.get("tags"))
            others.setdefault("kms_key", self._settings.get("kms_key"))
        return self.create_model(**own).deploy(initial_instance_count, instance_type, **others)

    def _repr_html_(self) -> str:
        values = {"entry point": self.entry_point, **self._hyperparameters}
        return html_table([values]) + (self.latest_training_job._repr_html_() if self.latest_training_job else "")

    def _job(self) -> TrainingJob:
        if self.latest_training_job is None:
            raise ConfigurationError("the estimator has not been fitted yet; call .fit({...}) first")
        return self.latest_training_job


def _submitted(job: TrainingJob) -> dict[str, Any]:
    """Return the arguments by which a job was submitted to AWS, as far as its endpoint needs them."""
    if not in_cloud(job.folder.path):
        return {}
    settings = read_json(job.folder.path / CLOUD_RECORD)["settings"]
    versions = _OUR_IMAGE.search(settings["image"])
    found = {
        "role": settings["role"],
        "subnets": settings["subnets"],
        "security_group_ids": settings["security_groups"],
        "output_kms_key": settings["kms_key"],
        "tags": settings["tags"],
        "framework_version": versions and versions[1],
        "py_version": versions and versions[2],
        "image_uri": "" if versions else settings["image"],
    }
    return {name: value for name, value in found.items() if value}


def _distribution_of(given: Mapping[str, Any] | None) -> str:
    if not given:
        return ""
    if set(given) == {TORCH_DISTRIBUTED} and set(given[TORCH_DISTRIBUTED]) <= {"enabled"}:
        return TORCH_DISTRIBUTED if given[TORCH_DISTRIBUTED].get("enabled") else ""
    raise ConfigurationError(
        f'distribution {given} is not supported; there is {{"{TORCH_DISTRIBUTED}": {{"enabled": True}}}}'
    )
