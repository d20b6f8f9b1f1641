"""The SageMaker control API of the stand-in: one method for each operation, over jobs, models and endpoints."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finepoint.engines.rehearsal.hosting import Endpoint, TransformJob
from finepoint.engines.rehearsal.objects import Objects
from finepoint.engines.rehearsal.shapes import problems
from finepoint.engines.rehearsal.training import ENDED, TrainingJob, why_refused
from finepoint.engines.rehearsal.tuning import TuningJob

ACCOUNT = "123456789012"
_MISSING = "Requested resource not found."


class ServiceError(Exception):
    """An error answer of the service."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.code, self.status = code, status
        super().__init__(message)


class Platform:
    """An account's SageMaker in one region.

    Args:
        objects: its S3 and logs.
        cache: folder for the containers' environment.
        region: its name.
        endpoint: address that containers find AWS at.
        pause: seconds that a job stays `Starting`.
    """

    def __init__(self, objects: Objects, cache: Path, region: str, endpoint: str, pause: float = 0.0) -> None:
        self.objects, self.cache, self.region, self.pause = objects, cache, region, pause
        self._endpoint = endpoint
        self.jobs: dict[str, TrainingJob] = {}
        self.tuning_jobs: dict[str, TuningJob] = {}
        self.transforms: dict[str, TransformJob] = {}
        self.models: dict[str, Mapping[str, Any]] = {}
        self.endpoint_configs: dict[str, Mapping[str, Any]] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self._leaving: list[threading.Thread] = []
        self.tags: dict[str, dict[str, str]] = {}
        # By name, as Service Quotas lists them; what is not named here is 1.
        self.quotas: dict[str, float] = {}
        self._created: dict[str, datetime] = {}
        self._lock = threading.RLock()

    def arn(self, kind: str, name: str) -> str:
        """Return a resource's ARN."""
        return f"arn:aws:sagemaker:{self.region}:{ACCOUNT}:{kind}/{name}"

    def variables(self) -> dict[str, str]:
        """Return what a container finds of AWS."""
        return {
            "AWS_ENDPOINT_URL": self._endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "SAGEMAKER_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "container",
            "AWS_SECRET_ACCESS_KEY": "container",
        }

    def answer(self, operation: str, request: Mapping[str, Any], fate: str = "") -> dict[str, Any]:
        """Return the answer to a request; both are checked against the service's model.

        Raises:
            ServiceError: the service would refuse it.
        """
        method = getattr(self, f"_{operation}", None)
        if method is None:
            raise ServiceError("UnknownOperationException", f"the rehearsal has no {operation}")
        wrong = problems(operation, request)
        if wrong:
            many = f"{len(wrong)} validation error{'s' if len(wrong) > 1 else ''} detected: "
            raise ServiceError("ValidationException", many + "; ".join(wrong))
        with self._lock:
            found: dict[str, Any] = method(request, fate) if operation == "CreateTrainingJob" else method(request)
        wrong = problems(operation, found, answer=True)
        if wrong:
            raise ServiceError("InternalFailure", f"the rehearsal's answer is wrong: {'; '.join(wrong)}", 500)
        return found

    def close(self) -> None:
        """End everything that runs."""
        running: list[Any] = [*self.tuning_jobs.values(), *self.jobs.values(), *self.transforms.values()]
        for job in running:
            if job.status == "InProgress":
                job.stop()
        for job in self.jobs.values():
            job.join(30)
        for endpoint in self.endpoints.values():
            endpoint.take_down()
        for thread in self._leaving:  # endpoints that were deleted while they came up
            thread.join()

    def forget(self) -> None:
        """Forget every resource."""
        for held in (self.jobs, self.tuning_jobs, self.transforms, self.models, self.endpoint_configs, self.endpoints):
            held.clear()

    def _create(self, held: Mapping[str, Any], kind: str, name: str, request: Mapping[str, Any]) -> str:
        if name in held:
            code = "ResourceInUse" if kind.endswith("job") else "ValidationException"
            raise ServiceError(code, f"Cannot create already existing {kind} {self.arn(kind, name)}")
        arn = self.arn(kind, name)
        self.tags[arn] = {tag["Key"]: tag["Value"] for tag in request.get("Tags", ())}
        self._created[arn] = datetime.now(UTC)
        return arn

    def _find(self, held: Mapping[str, Any], name: str) -> Any:
        if name not in held:
            raise ServiceError("ValidationException", f"{_MISSING} ({name})")
        return held[name]

    def _CreateTrainingJob(self, request: Mapping[str, Any], fate: str) -> dict[str, Any]:  # noqa: N802
        arn = self._create(self.jobs, "training-job", request["TrainingJobName"], request)
        if why := why_refused(self, request):
            raise ServiceError("ValidationException", why)
        spot, condition = request.get("EnableManagedSpotTraining", False), request["StoppingCondition"]
        if spot and condition.get("MaxWaitTimeInSeconds", 0) < condition.get("MaxRuntimeInSeconds", 86400):
            raise ServiceError("ValidationException", "MaxWaitTimeInSeconds must be at least MaxRuntimeInSeconds")
        job = TrainingJob(self, request, fate)
        self.jobs[job.name] = job
        job.start()
        return {"TrainingJobArn": arn}

    def _DescribeTrainingJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        job: TrainingJob = self._find(self.jobs, request["TrainingJobName"])
        return job.describe()

    def _StopTrainingJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        job: TrainingJob = self._find(self.jobs, request["TrainingJobName"])
        if job.status in ENDED:
            raise ServiceError("ValidationException", f"The request was rejected because the job is {job.status}.")
        job.stop()
        return {}

    def _ListTrainingJobs(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = [
            {
                "TrainingJobName": job.name,
                "TrainingJobArn": job.arn,
                "CreationTime": job.created,
                "TrainingJobStatus": job.status,
            }
            for job in self.jobs.values()
            if request.get("NameContains", "") in job.name and request.get("StatusEquals", job.status) == job.status
        ]
        return {"TrainingJobSummaries": found}

    def _CreateHyperParameterTuningJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = request["HyperParameterTuningJobName"]
        arn = self._create(self.tuning_jobs, "hyper-parameter-tuning-job", name, request)
        if why := why_refused(self, request["TrainingJobDefinition"]):
            raise ServiceError("ValidationException", why)
        self.tuning_jobs[name] = TuningJob(self, request)
        return {"HyperParameterTuningJobArn": arn}

    def _DescribeHyperParameterTuningJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        job: TuningJob = self._find(self.tuning_jobs, request["HyperParameterTuningJobName"])
        return job.describe()

    def _StopHyperParameterTuningJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._find(self.tuning_jobs, request["HyperParameterTuningJobName"]).stop()
        return {}

    def _ListTrainingJobsForHyperParameterTuningJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        job: TuningJob = self._find(self.tuning_jobs, request["HyperParameterTuningJobName"])
        return {"TrainingJobSummaries": job.summaries()}

    def _CreateModel(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        arn = self._create(self.models, "model", request["ModelName"], request)
        url = request["PrimaryContainer"]["ModelDataUrl"]
        if not self.objects.keys(url):
            raise ServiceError("ValidationException", f"Could not find model data at {url}.")
        self.models[request["ModelName"]] = request
        return {"ModelArn": arn}

    def _DescribeModel(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = self._find(self.models, request["ModelName"])
        arn = self.arn("model", request["ModelName"])
        kept = {key: value for key, value in found.items() if key != "Tags"}
        return {**kept, "ModelArn": arn, "CreationTime": self._created[arn]}

    def _DeleteModel(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._find(self.models, request["ModelName"])
        del self.models[request["ModelName"]]
        return {}

    def _CreateEndpointConfig(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        arn = self._create(self.endpoint_configs, "endpoint-config", request["EndpointConfigName"], request)
        for variant in request["ProductionVariants"]:
            self._find(self.models, variant["ModelName"])
        self.endpoint_configs[request["EndpointConfigName"]] = request
        return {"EndpointConfigArn": arn}

    def _DescribeEndpointConfig(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = self._find(self.endpoint_configs, request["EndpointConfigName"])
        arn = self.arn("endpoint-config", request["EndpointConfigName"])
        kept = {key: value for key, value in found.items() if key != "Tags"}
        return {**kept, "EndpointConfigArn": arn, "CreationTime": self._created[arn]}

    def _DeleteEndpointConfig(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._find(self.endpoint_configs, request["EndpointConfigName"])
        del self.endpoint_configs[request["EndpointConfigName"]]
        return {}

    def _CreateEndpoint(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        name, config = request["EndpointName"], request["EndpointConfigName"]
        arn = self._create(self.endpoints, "endpoint", name, request)
        self._find(self.endpoint_configs, config)
        self.endpoints[name] = Endpoint(self, name, config)
        self.endpoints[name].bring_up()
        return {"EndpointArn": arn}

    def _UpdateEndpoint(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        endpoint: Endpoint = self._find(self.endpoints, request["EndpointName"])
        self._find(self.endpoint_configs, request["EndpointConfigName"])
        if endpoint.status != "InService":  # one that failed can only be deleted
            words = f"Cannot update endpoint {endpoint.arn}, which is {endpoint.status}."
            raise ServiceError("ValidationException", words)
        endpoint.config = request["EndpointConfigName"]
        endpoint.bring_up("Updating")
        return {"EndpointArn": endpoint.arn}

    def _DescribeEndpoint(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        endpoint: Endpoint = self._find(self.endpoints, request["EndpointName"])
        return {
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint.arn,
            "EndpointConfigName": endpoint.config,
            "EndpointStatus": endpoint.status,
            "CreationTime": endpoint.created,
            "LastModifiedTime": endpoint.modified,
            **({"ProductionVariants": endpoint.variants()} if endpoint.status == "InService" else {}),
            **({"FailureReason": endpoint.failure} if endpoint.failure else {}),
        }

    def _DeleteEndpoint(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        endpoint: Endpoint = self._find(self.endpoints, request["EndpointName"])
        del self.endpoints[endpoint.name]
        self._leaving = [thread for thread in self._leaving if thread.is_alive()]
        self._leaving.append(threading.Thread(target=endpoint.take_down, daemon=True))
        self._leaving[-1].start()
        return {}

    def _ListEndpoints(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = [
            {
                "EndpointName": endpoint.name,
                "EndpointArn": endpoint.arn,
                "CreationTime": endpoint.created,
                "LastModifiedTime": endpoint.modified,
                "EndpointStatus": endpoint.status,
            }
            for endpoint in self.endpoints.values()
        ]
        return {"Endpoints": found}

    def _CreateTransformJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        arn = self._create(self.transforms, "transform-job", request["TransformJobName"], request)
        self._find(self.models, request["ModelName"])
        self.transforms[request["TransformJobName"]] = TransformJob(self, request)
        return {"TransformJobArn": arn}

    def _DescribeTransformJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        job: TransformJob = self._find(self.transforms, request["TransformJobName"])
        kept = {key: value for key, value in job.request.items() if key != "Tags"}
        return {
            **kept,
            "TransformJobArn": self.arn("transform-job", request["TransformJobName"]),
            "TransformJobStatus": job.status,
            "CreationTime": job.created,
            "TransformStartTime": job.created,
            **({"TransformEndTime": job.ended} if job.ended else {}),
            **({"FailureReason": job.failure} if job.failure else {}),
        }

    def _StopTransformJob(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._find(self.transforms, request["TransformJobName"]).stop()
        return {}

    def _ListTags(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        tags = self.tags.get(request["ResourceArn"], {})
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def quotas(platform: Platform, instance_types: Iterable[str]) -> dict[str, Any]:
    """Return what Service Quotas lists of SageMaker's machines."""
    uses = ("training job usage", "spot training job usage", "endpoint usage", "transform job usage")
    names = [f"{kind} for {use}" for kind in instance_types for use in uses]
    listed = [
        {"ServiceCode": "sagemaker", "QuotaName": name, "Value": platform.quotas.get(name, 1.0)} for name in names
    ]
    return {"Quotas": listed}


def request_id() -> str:
    """Return a new request's id."""
    return str(uuid.uuid4())
