"""How an endpoint in AWS is hosted: how many machines, growing with the load, what is captured, how it is updated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.engines.sagemaker.requests import network_request, volume_key
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.errors import CloudError, ConfigurationError
from finepoint.files import digest_of

Mode = Literal["realtime", "serverless", "async"]
Update = Literal["all-at-once", "canary", "rolling"]
VARIANT = "AllTraffic"
_DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_SERVERLESS = {"MemorySizeInMB": 4096, "MaxConcurrency": 5}
# Of an update: how long a part of the traffic, or of the machines, is watched before the rest follows.
_WATCH_SECONDS = 300
_SHARE = {"Type": "CAPACITY_PERCENT", "Value": 50}  # the most that SageMaker allows for a canary or a batch


@dataclass(frozen=True)
class Hosting:
    """How an endpoint is hosted.

    Args:
        mode: `realtime`, `serverless` (no machines while nobody asks) or `async` (answers go to S3).
        count: of machines; with `max_count` the fewest.
        max_count: machines are added up to so many, and removed again; 0 keeps their number.
        scale_at: invocations of one machine in a minute, above which machines are added.
        capture_percent: of requests and answers that are kept in S3; 0 keeps none.
        update: of an endpoint that is there: at once, first for a part of the traffic (`canary`), or machine by machine
            (`rolling`); the old model goes on answering until the new one does.
    """

    mode: Mode = "realtime"
    count: int = 1
    max_count: int = 0
    scale_at: float = 0.0
    capture_percent: int = 0
    update: Update = "all-at-once"

    def __post_init__(self) -> None:
        mistakes = []
        if self.count < 1:
            mistakes.append(f"count is {self.count}; it must be at least 1")
        if bool(self.max_count) != bool(self.scale_at):
            mistakes.append("growing with the load needs both max_count and scale_at")
        if self.max_count and self.max_count <= self.count:
            mistakes.append(f"max_count is {self.max_count}; it must be above count, {self.count}")
        if self.scale_at < 0:
            mistakes.append(f"scale_at is {self.scale_at}; it must be above 0 invocations in a minute")
        if not 0 <= self.capture_percent <= 100:
            mistakes.append(f"capture_percent is {self.capture_percent}; it must be from 0 to 100")
        if self.update != "all-at-once" and self.count < 2:
            mistakes.append(f"a {self.update} update takes at most half of the machines at once; give count 2 or more")
        if self.mode != "realtime" and (self.max_count or self.capture_percent or self.update != "all-at-once"):
            mistakes.append(f"a {self.mode} endpoint neither grows by a policy, nor is captured, nor updated in parts")
        if self.mode == "serverless" and self.count > 1:
            mistakes.append("a serverless endpoint has no machines; leave count out")
        if mistakes:
            raise ConfigurationError(mistakes)


def named(key: str, endpoint: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with a name that all of it gives, so that what is there under that name is what is asked for.

    Args:
        key: of the name in the request.
        endpoint: that it is a part of, at most 63 letters.
        request: without its name.

    >>> named("ModelName", "dogs", {"ExecutionRoleArn": "r"})["ModelName"]
    'dogs-4369463fc98b'
    """
    digest = digest_of({"endpoint": endpoint, **request})[:12]
    return {key: f"{endpoint[:50]}-{digest}", **request}


def model_request(url: str, image: str, settings: SageMakerSettings, tags: list[dict[str, str]]) -> dict[str, Any]:
    """Return the request of CreateModel, without a name.

    Args:
        url: of `model.tar.gz` in S3.
        image: that serves it.
        settings: role and network.
        tags: of the resource.
    """
    script = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
    container = {"Image": image, "ModelDataUrl": url, "Environment": script}
    request: dict[str, Any] = {"PrimaryContainer": container, "ExecutionRoleArn": settings.role, "Tags": tags}
    return request | network_request(settings)


def config_request(
    model: str,
    instance_type: str,
    hosting: Hosting,
    tags: list[dict[str, str]],
    *,
    answers: str,
    captured: str,
    kms_key: str = "",
) -> dict[str, Any]:
    """Return the request of CreateEndpointConfig, without a name.

    Args:
        model: that it hosts.
        instance_type: of its machines.
        hosting: how.
        tags: of the resource.
        answers: address for the answers of an asynchronous endpoint; its failures are put below it.
        captured: address for what is captured.
        kms_key: encrypts the machines' disks, answers in S3, and what is captured.
    """
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": model}
    if hosting.mode == "serverless":
        variant["ServerlessConfig"] = dict(_SERVERLESS)
    else:
        count = hosting.count
        variant |= {"InstanceType": instance_type, "InitialInstanceCount": count, "InitialVariantWeight": 1.0}
    config: dict[str, Any] = {"ProductionVariants": [variant], "Tags": tags}
    if hosting.mode == "async":
        output = {"S3OutputPath": answers, "S3FailurePath": f"{answers}/failures"}
        config["AsyncInferenceConfig"] = {"OutputConfig": output | ({"KmsKeyId": kms_key} if kms_key else {})}
    if hosting.capture_percent:
        config["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": hosting.capture_percent,
            "DestinationS3Uri": captured,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            **({"KmsKeyId": kms_key} if kms_key else {}),
        }
    if hosting.mode != "serverless" and volume_key(instance_type, kms_key):
        config["KmsKeyId"] = kms_key
    return config


def update_request(hosting: Hosting) -> Mapping[str, Any]:
    """Return what UpdateEndpoint is told beside the names."""
    if hosting.update == "canary":
        routing = {"Type": "CANARY", "CanarySize": _SHARE, "WaitIntervalInSeconds": _WATCH_SECONDS}
        return {"DeploymentConfig": {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}}
    if hosting.update == "rolling":
        policy = {"MaximumBatchSize": _SHARE, "WaitIntervalInSeconds": _WATCH_SECONDS}
        return {"DeploymentConfig": {"RollingUpdatePolicy": policy}}
    return {}


def scale(cloud: Cloud, endpoint: str, hosting: Hosting) -> None:
    """Let an endpoint's machines grow with the load, and shrink again."""
    target = _target(endpoint)
    cloud.call(
        "application-autoscaling",
        "RegisterScalableTarget",
        **target,
        MinCapacity=hosting.count,
        MaxCapacity=hosting.max_count,
    )
    tracking = {
        "TargetValue": hosting.scale_at,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
    }
    cloud.call(
        "application-autoscaling",
        "PutScalingPolicy",
        PolicyName=f"{endpoint}-load",
        **target,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=tracking,
    )


def unscale(cloud: Cloud, endpoint: str) -> bool:
    """Keep the number of an endpoint's machines from now on, and return whether a policy was there."""
    try:
        cloud.call("application-autoscaling", "DeregisterScalableTarget", **_target(endpoint))
    except CloudError as error:
        if is_missing(error) or error.code == "ObjectNotFoundException" or "No scalable target" in str(error):
            return False
        raise
    return True


def _target(endpoint: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": _DIMENSION,
    }
