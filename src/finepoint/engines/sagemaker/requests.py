"""From a job's spec to the requests of the SageMaker API; pure functions, so that a test can read every field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finepoint.engines.channels import MANIFEST
from finepoint.engines.encoding import as_variable
from finepoint.engines.sagemaker.images import image_for
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.spec import TORCH_DISTRIBUTED, JobSpec
from finepoint.errors import ConfigurationError
from finepoint.tuning.parameters import CategoricalParameter, IntegerParameter, Parameter

# CreateTrainingJob's bounds on hyperparameters.
_MAX_NAMES, _MAX_VALUE = 100, 2500
_MAX_METRICS = 40
CHECKPOINTS = "/opt/ml/checkpoints"
# Families with disks of their own: a `d` behind the number says so, and of some it is not said.
_OWN_DISKS = re.compile(r"ml\.(?:[a-z]+\d+[a-z]*d[a-z]*|g5|g6e?|gr6|p5\w*|p6-\w+|trn\d\w*|i\d\w*)\.")


@dataclass(frozen=True)
class Places:
    """Where a job's things are in S3.

    Args:
        code: `sourcedir.tar.gz`.
        entry_point: in it.
        channels: address of each.
        output: results are put under this.
        checkpoints: kept over restarts.
    """

    code: str
    entry_point: str
    channels: Mapping[str, str]
    output: str
    checkpoints: str


def training_request(
    name: str, spec: JobSpec, settings: SageMakerSettings, region: str, places: Places
) -> dict[str, Any]:
    """Return the request of CreateTrainingJob.

    Args:
        name: of the job in AWS.
        spec: what to run.
        settings: where and on what.
        region: that it runs in.
        places: of its things.

    Raises:
        ConfigurationError: what the spec asks for does not fit into a request; all mistakes are listed.
    """
    hyperparameters = _hyperparameters(name, spec, region, places)
    _check(spec, hyperparameters)
    max_run = round(spec.limits.max_run_seconds or settings.max_run_seconds)
    condition = {"MaxRuntimeInSeconds": max_run}
    if settings.spot:
        condition["MaxWaitTimeInSeconds"] = max(settings.max_wait_seconds or 2 * max_run, max_run)
    instance = instance_type(spec, settings)
    resources: dict[str, Any] = {
        "InstanceType": instance,
        "InstanceCount": instance_count(spec, settings),
        "VolumeSizeInGB": settings.volume_gib,
    }
    if settings.keep_alive_seconds:
        resources["KeepAlivePeriodInSeconds"] = settings.keep_alive_seconds
    output = {"S3OutputPath": places.output}
    if settings.kms_key:
        output["KmsKeyId"] = settings.kms_key
        if volume_key(instance, settings.kms_key):
            resources["VolumeKmsKeyId"] = settings.kms_key
    algorithm: dict[str, Any] = {
        "TrainingImage": image_for("training", region, instance, settings.image),
        "TrainingInputMode": "File",
        "EnableSageMakerMetricsTimeSeries": True,
    }
    if spec.metric_definitions:
        algorithm["MetricDefinitions"] = [
            {"Name": metric.name, "Regex": metric.regex} for metric in spec.metric_definitions
        ]
    request: dict[str, Any] = {
        "TrainingJobName": name,
        "RoleArn": settings.role,
        "AlgorithmSpecification": algorithm,
        "HyperParameters": hyperparameters,
        "InputDataConfig": [
            channel_request(channel, address, spec.channels[channel].input_mode)
            for channel, address in places.channels.items()
        ],
        "OutputDataConfig": output,
        "ResourceConfig": resources,
        "StoppingCondition": condition,
        "CheckpointConfig": {"S3Uri": places.checkpoints, "LocalPath": CHECKPOINTS},
        "EnableManagedSpotTraining": settings.spot,
        "Environment": {key: as_variable(value) for key, value in spec.environment.items()},
        "Tags": tags_of(spec.name, settings, spec.tags),
    }
    request |= network_request(settings)
    return {key: value for key, value in request.items() if value not in ([], {})}


def tuning_request(
    name: str,
    training: Mapping[str, Any],
    space: Mapping[str, Parameter],
    objective: tuple[str, str],
    *,
    strategy: str,
    max_jobs: int,
    max_parallel_jobs: int,
    early_stopping: str,
    seed: int,
    warm_start: tuple[str, ...] = (),
    checkpoints: bool = False,
) -> dict[str, Any]:
    """Return the request of CreateHyperParameterTuningJob.

    Args:
        name: of the job in AWS, at most 32 letters.
        training: request of the training job that is tuned.
        space: what is searched.
        objective: `minimize` or `maximize`, and the name of a metric.
        strategy: `bayesian`, `random`, `grid` or `hyperband`.
        max_jobs: in all.
        max_parallel_jobs: at once.
        early_stopping: `auto` or `off`.
        seed: of the search.
        warm_start: earlier tuning jobs to learn from.
        checkpoints: whether trials keep any. It is not documented whether each has a place of its own, and a trial
            must not go on from another's; so they keep them only where they are needed.
    """
    kept: tuple[str, ...] = (
        "RoleArn",
        "AlgorithmSpecification",
        "InputDataConfig",
        "OutputDataConfig",
        "ResourceConfig",
    )
    kept += ("StoppingCondition", "EnableManagedSpotTraining", "VpcConfig", "Environment")
    kept += ("CheckpointConfig",) if checkpoints else ()
    definition = {key: training[key] for key in kept if key in training}
    algorithm = {
        key: value
        for key, value in training["AlgorithmSpecification"].items()
        if key != "EnableSageMakerMetricsTimeSeries"
    }
    definition["AlgorithmSpecification"] = algorithm
    definition["StaticHyperParameters"] = dict(training["HyperParameters"])
    limits: dict[str, int] = {"MaxParallelTrainingJobs": max_parallel_jobs}
    if strategy != "grid":
        limits["MaxNumberOfTrainingJobs"] = max_jobs
    config: dict[str, Any] = {
        "Strategy": strategy.capitalize(),
        "HyperParameterTuningJobObjective": {"Type": objective[0].capitalize(), "MetricName": objective[1]},
        "ResourceLimits": limits,
        "ParameterRanges": ranges_request(space),
        # Hyperband stops trials by itself, and refuses another rule beside it.
        "TrainingJobEarlyStoppingType": "Auto" if early_stopping == "auto" and strategy != "hyperband" else "Off",
        "RandomSeed": seed,
    }
    request = {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": definition,
        "Tags": list(training["Tags"]),
    }
    if warm_start:
        parents = [{"HyperParameterTuningJobName": parent} for parent in warm_start]
        request["WarmStartConfig"] = {
            "ParentHyperParameterTuningJobs": parents,
            "WarmStartType": "IdenticalDataAndAlgorithm",
        }
    return request


def ranges_request(space: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return `ParameterRanges`; numbers are strings there.

    >>> ranges_request({"batch_size": CategoricalParameter([64, 128])})
    {'CategoricalParameterRanges': [{'Name': 'batch_size', 'Values': ['"64"', '"128"']}]}
    """
    ranges: dict[str, list[dict[str, Any]]] = {}
    for name, parameter in space.items():
        if isinstance(parameter, CategoricalParameter):
            # As the SDK sends them: the container reads each as JSON, and gets a string.
            values = [json.dumps(str(value)) for value in parameter.values]
            ranges.setdefault("CategoricalParameterRanges", []).append({"Name": name, "Values": values})
            continue
        kind = "IntegerParameterRanges" if isinstance(parameter, IntegerParameter) else "ContinuousParameterRanges"
        entry = {"Name": name, "MinValue": str(parameter.min_value), "MaxValue": str(parameter.max_value)}
        entry["ScalingType"] = "Logarithmic" if parameter.logarithmic else parameter.scaling_type
        ranges.setdefault(kind, []).append(entry)
    return ranges


def channel_request(name: str, address: str, input_mode: str) -> dict[str, Any]:
    """Return one entry of `InputDataConfig`."""
    kind = "ManifestFile" if address.endswith(MANIFEST) else "S3Prefix"
    source = {"S3DataType": kind, "S3Uri": address, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": input_mode}


def network_request(settings: SageMakerSettings) -> dict[str, Any]:
    """Return `VpcConfig`, or nothing without subnets."""
    if not settings.subnets:
        return {}
    return {"VpcConfig": {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}}


def volume_key(instance_type: str, kms_key: str) -> str:
    """Return the key for a machine's volume; "" without one, and where AWS takes none.

    Machines with disks of their own have no other volume; their hardware encrypts those, and a key is refused.

    >>> volume_key("ml.m5.xlarge", "alias/a"), volume_key("ml.g5.xlarge", "alias/a")
    ('alias/a', '')
    """
    return "" if _OWN_DISKS.match(instance_type) else kms_key


def tell_volume_key(instance_type: str, kms_key: str, say: Callable[[str], None]) -> None:
    """Say so where a machine takes no key for its disks though one is given."""
    if kms_key != volume_key(instance_type, kms_key):
        say(f"{instance_type} has disks of its own, which its hardware encrypts; the KMS key is for what lies in S3")


def tags_of(name: str, settings: SageMakerSettings, more: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Return the tags of a resource: the user's, and `finepoint` with the run's or job's name."""
    tags = {**settings.tags, **(more or {}), "finepoint": name}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def instance_type(spec: JobSpec, settings: SageMakerSettings) -> str:
    """Return the machine type of a job: its own, or the settings'."""
    own = spec.resources.instance_type
    return own if own != "local" else settings.instance_type


def instance_count(spec: JobSpec, settings: SageMakerSettings) -> int:
    """Return how many machines a job has: its own number, or the settings'; finepoint's modules run on one."""
    if not spec.is_script:
        return 1
    return spec.resources.instance_count if spec.resources.instance_count > 1 else settings.instance_count


def _hyperparameters(name: str, spec: JobSpec, region: str, places: Places) -> dict[str, str]:
    own: dict[str, Any] = {
        "sagemaker_program": places.entry_point,
        "sagemaker_submit_directory": places.code,
        "sagemaker_container_log_level": 20,
        "sagemaker_job_name": name,
        "sagemaker_region": region,
    }
    if spec.distribution == TORCH_DISTRIBUTED:
        own["sagemaker_torch_distributed_enabled"] = True
    return {key: json.dumps(value) for key, value in {**spec.hyperparameters, **own}.items()}


def _check(spec: JobSpec, hyperparameters: Mapping[str, str]) -> None:
    mistakes = [
        f"hyperparameter {key} is {len(value)} characters long as JSON; SageMaker takes at most {_MAX_VALUE}"
        for key, value in hyperparameters.items()
        if len(value) > _MAX_VALUE
    ]
    if len(hyperparameters) > _MAX_NAMES:
        mistakes.append(f"{len(hyperparameters)} hyperparameters are given; SageMaker takes at most {_MAX_NAMES}")
    if len(spec.metric_definitions) > _MAX_METRICS:
        mistakes.append(f"{len(spec.metric_definitions)} metrics are defined; SageMaker takes at most {_MAX_METRICS}")
    if spec.checkpoint_location and not spec.checkpoint_location.startswith("s3://"):
        mistakes.append(f"checkpoint_location {spec.checkpoint_location} must be an s3:// address for a job in AWS")
    if spec.requirements == "offline":
        mistakes.append("offline has no meaning in AWS: the container installs requirements.txt by itself")
    if spec.hyperparameters.get("weights") and not spec.is_script:
        weights = str(spec.hyperparameters["weights"])
        if any(part.strip() not in ("", "random") for part in weights.split(",")):
            mistakes.append(f"weights {weights} are a file of this machine, which a job in AWS cannot read")
    if spec.hyperparameters.get("warm_start") and not spec.is_script:
        mistakes.append("warm_start names runs on this machine, which a job in AWS cannot read")
    if mistakes:
        raise ConfigurationError(mistakes)
