"""Endpoints on SageMaker: model, configuration and endpoint; asked, listed with their cost, and deleted again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finepoint.engines.sagemaker.cloud import Cloud, is_missing, is_taken
from finepoint.engines.sagemaker.hosting import Hosting, config_request, scale, unscale, update_request
from finepoint.engines.sagemaker.images import image_for
from finepoint.engines.sagemaker.ledger import Ledger
from finepoint.engines.sagemaker.rates import price, refuse_above
from finepoint.engines.sagemaker.requests import tags_of
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.transfer import push, put
from finepoint.errors import CloudError, EndpointError, NotFoundError, RequestError
from finepoint.files import sha256_of

# A day, which is how long a forgotten endpoint runs before most people look.
_ESTIMATE_HOURS = 24.0
_MARK = "finepoint"


@dataclass(frozen=True)
class CloudEndpoint:
    """An endpoint in AWS.

    Args:
        name: its name.
        status: `Creating`, `InService`, `Updating`, `Failed`, `Deleting`, ...
        mode: `realtime`, `serverless` or `async`.
        instance_type: of its machines, or "".
        created_at: UTC.
        dollars: what its machines cost so far by the table of rates, or None where that is unknown.
        run: whose it is, by its tag; "" is somebody else's.
    """

    name: str
    status: str
    mode: str
    instance_type: str
    created_at: str
    dollars: float | None
    run: str


@dataclass(frozen=True)
class Pending:
    """A request that an asynchronous endpoint has taken.

    Args:
        answer: the address where the answer will be.
        failure: the address where it is said why there is none; "" where the endpoint has no place for that.
    """

    answer: str
    failure: str


class _NotUpdatedError(Exception):
    """The endpoint is in service with what it had before."""


def deploy(
    cloud: Cloud,
    settings: SageMakerSettings,
    package: Path,
    name: str,
    *,
    hosting: Hosting | None = None,
    run: str = "",
    say: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> CloudEndpoint:
    """Put a model package behind an endpoint, or behind the one that is there, and wait until it is in service.

    Everything is named after the endpoint and the package's content, so that a repeated call goes on where an
    interrupted one ended; an endpoint that is there gets the new configuration beside the old one, which goes when the
    new one answers.

    Args:
        cloud: the account.
        settings: where and on what.
        package: `model.tar.gz`.
        name: of the endpoint.
        hosting: how; by default one machine in real time.
        run: ledger that the resources are written into; by default the endpoint's own.
        say: is told what is done.
        sleep: waits so many seconds between two looks.

    Raises:
        ConfigurationError: a day may cost more than `max_price`.
        EndpointError: it does not come into service; AWS's reason is given, and nothing is left of it. Where another
            model was served, that goes on.
    """
    hosting, kind = hosting or Hosting(), settings.inference_instance_type
    if hosting.mode == "serverless":
        say("A serverless endpoint costs only while it answers; its rates are not in the table")
    else:
        most = max(hosting.count, hosting.max_count)
        say(refuse_above(f"A day of endpoint {name}", kind, _ESTIMATE_HOURS, most, settings.max_price))
    digest = sha256_of(package)
    versioned = f"{name[:50]}-{digest[:8]}"
    url = settings.uri("models", digest[:32], "model.tar.gz")
    _upload(cloud, package, url, settings)
    ledger, region, tags = Ledger(run or name), cloud.region, tags_of(run or name, settings)
    container = {
        "Image": image_for("inference", region, kind, settings.inference_image),
        "ModelDataUrl": url,
        "Environment": {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"},
    }
    model: dict[str, Any] = {
        "ModelName": versioned,
        "PrimaryContainer": container,
        "ExecutionRoleArn": settings.role,
        "Tags": tags,
    }
    if settings.subnets:
        model["VpcConfig"] = {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}
    ledger.record("model", versioned, region)
    _create(lambda: cloud.call("sagemaker", "CreateModel", **model))
    config_name = f"{name[:36]}-{digest[:8]}-{hosting.key}"
    ledger.record("endpoint-config", config_name, region)
    config = config_request(
        config_name,
        versioned,
        kind,
        hosting,
        tags,
        answers=settings.uri("answers"),
        captured=settings.uri("captured"),
        kms_key=settings.kms_key,
    )
    _create(lambda: cloud.call("sagemaker", "CreateEndpointConfig", **config))
    ledger.record("endpoint", name, region, "" if hosting.mode == "serverless" else kind)
    before = _describe(cloud, name)
    if before is None:
        _create(
            lambda: cloud.call(
                "sagemaker", "CreateEndpoint", EndpointName=name, EndpointConfigName=config_name, Tags=tags
            )
        )
    elif before["EndpointConfigName"] != config_name:
        say(f"Endpoint {name} is updated; what it serves now goes on answering until the new one does")
        more = update_request(hosting)
        cloud.call("sagemaker", "UpdateEndpoint", EndpointName=name, EndpointConfigName=config_name, **more)
    try:
        _wait(cloud, name, config_name, settings, say, sleep)
    except _NotUpdatedError as error:
        delete(cloud, "endpoint-config", config_name)
        ledger.strike("endpoint-config", config_name)
        served = [variant["ModelName"] for variant in _variants(cloud, (before or {}).get("EndpointConfigName", ""))]
        if versioned not in served:
            delete(cloud, "model", versioned)
            ledger.strike("model", versioned)
        raise EndpointError(str(error)) from error
    if hosting.max_count:
        ledger.record("scaling", name, region)
        scale(cloud, name, hosting)
    else:
        _unscale(cloud, name, ledger)
    return next(endpoint for endpoint in list_endpoints(cloud) if endpoint.name == name)


def predict(
    cloud: Cloud,
    name: str,
    body: bytes,
    content_type: str,
    accept: str = "application/json",
    custom_attributes: str = "",
) -> tuple[bytes, str]:
    """Return an endpoint's answer and its content type.

    Args:
        cloud: the account.
        name: of the endpoint.
        body: of the request.
        content_type: of the body.
        accept: what is asked for.
        custom_attributes: for the model's handler.

    Raises:
        NotFoundError: there is no such endpoint.
        RequestError: the model refused the request; `status` is what it answered with.
    """
    try:
        answer = cloud.call(
            "sagemaker-runtime",
            "InvokeEndpoint",
            EndpointName=name,
            Body=body,
            ContentType=content_type,
            Accept=accept,
            **({"CustomAttributes": custom_attributes} if custom_attributes else {}),
        )
    except CloudError as error:
        if error.code == "ModelError":
            cause = getattr(error.__cause__, "response", {})
            message = str(cause.get("OriginalMessage") or error)
            # The toolkit puts the traceback behind the message; CloudWatch has it.
            first = next(iter(message.strip().splitlines()), "")
            raise RequestError(first, int(cause.get("OriginalStatusCode", 500))) from error
        if is_missing(error):
            raise no_endpoint(cloud, name) from error
        raise
    return answer["Body"].read(), str(answer.get("ContentType", ""))


def predict_async(
    cloud: Cloud,
    settings: SageMakerSettings,
    name: str,
    body: bytes,
    content_type: str,
    accept: str = "application/json",
    custom_attributes: str = "",
) -> Pending:
    """Hand an asynchronous endpoint a request by way of S3, and return where its answer will be."""
    uri = settings.uri("requests", hashlib.sha256(body).hexdigest()[:32])
    put(cloud, uri, body, settings.kms_key)
    answer = cloud.call(
        "sagemaker-runtime",
        "InvokeEndpointAsync",
        EndpointName=name,
        InputLocation=uri,
        ContentType=content_type,
        Accept=accept,
        **({"CustomAttributes": custom_attributes} if custom_attributes else {}),
    )
    return Pending(str(answer["OutputLocation"]), str(answer.get("FailureLocation", "")))


def configuration_of(cloud: Cloud, name: str) -> dict[str, Any]:
    """Return what AWS says of the configuration of an endpoint.

    Raises:
        NotFoundError: there is no such endpoint.
    """
    described = _describe(cloud, name)
    if described is None:
        raise no_endpoint(cloud, name)
    return _configuration(cloud, described["EndpointConfigName"])


def no_endpoint(cloud: Cloud, name: str) -> NotFoundError:
    """Return the error that says that there is no such endpoint."""
    return NotFoundError(f"no endpoint {name!r} in {cloud.region}; `finepoint endpoints --engine sagemaker`")


def undeploy(cloud: Cloud, name: str, ledger_name: str = "") -> list[str]:
    """Delete an endpoint, its configuration and its model, and return what was deleted.

    Raises:
        NotFoundError: nothing of that name is there.
    """
    described = _describe(cloud, name)
    if described is None:
        raise no_endpoint(cloud, name)
    ledger = Ledger(ledger_name or name)
    _unscale(cloud, name, ledger)
    config = described["EndpointConfigName"]
    models = [variant["ModelName"] for variant in _variants(cloud, config)]
    gone = []
    for kind, names in (("endpoint", [name]), ("endpoint-config", [config]), ("model", models)):
        for one in names:
            delete(cloud, kind, one)
            ledger.strike(kind, one)  # type: ignore[arg-type]
            gone.append(f"{kind} {one}")
    return gone


def _unscale(cloud: Cloud, name: str, ledger: Ledger) -> None:
    """Remove the policy of growing where one was made: who has none needs no permission for it."""
    if any(one.kind == "scaling" and one.name == name and not one.gone for one in ledger.resources()):
        unscale(cloud, name)
        ledger.strike("scaling", name)


def delete(cloud: Cloud, kind: str, name: str) -> bool:
    """Delete an endpoint, an endpoint configuration or a model, and return whether it was there."""
    calls: Mapping[str, Callable[[], dict[str, Any]]] = {
        "endpoint": lambda: cloud.call("sagemaker", "DeleteEndpoint", EndpointName=name),
        "endpoint-config": lambda: cloud.call("sagemaker", "DeleteEndpointConfig", EndpointConfigName=name),
        "model": lambda: cloud.call("sagemaker", "DeleteModel", ModelName=name),
    }
    try:
        calls[kind]()
    except CloudError as error:
        if is_missing(error):
            return False
        raise
    return True


def list_endpoints(cloud: Cloud) -> list[CloudEndpoint]:
    """Return every endpoint of the account in this region, also those that finepoint did not make."""
    found = []
    for page in cloud.pages("sagemaker", "ListEndpoints"):
        for entry in page["Endpoints"]:
            tags = cloud.call("sagemaker", "ListTags", ResourceArn=entry["EndpointArn"]).get("Tags", ())
            run = next((tag["Value"] for tag in tags if tag["Key"] == _MARK), "")
            found.append(_endpoint(cloud, entry, run))
    return found


def _endpoint(cloud: Cloud, entry: Mapping[str, Any], run: str) -> CloudEndpoint:
    described = _describe(cloud, entry["EndpointName"]) or entry
    config = described.get("EndpointConfigName", "")
    configuration = _configuration(cloud, config)
    variant: dict[str, Any] = next(iter(configuration["ProductionVariants"]), {})
    kind = str(variant.get("InstanceType", ""))
    created: datetime = entry["CreationTime"]
    hours = (datetime.now(UTC) - created).total_seconds() / 3600
    asynchronous = "AsyncInferenceConfig" in configuration
    mode = "serverless" if "ServerlessConfig" in variant else "async" if asynchronous else "realtime"
    dollars = price(kind, hours, int(variant.get("InitialInstanceCount", 1))) if kind else None
    return CloudEndpoint(
        entry["EndpointName"], described["EndpointStatus"], mode, kind, created.isoformat(), dollars, run
    )


def _upload(cloud: Cloud, package: Path, uri: str, settings: SageMakerSettings) -> None:
    push(cloud, {"model.tar.gz": package}, uri.rpartition("/")[0], kms_key=settings.kms_key)


def _create(call: Callable[[], dict[str, Any]]) -> None:
    """Create a resource; that it is there already, under a name that its content gave it, is success."""
    try:
        call()
    except CloudError as error:
        if not is_taken(error):
            raise


def _describe(cloud: Cloud, name: str) -> dict[str, Any] | None:
    try:
        return cloud.call("sagemaker", "DescribeEndpoint", EndpointName=name)
    except CloudError as error:
        if is_missing(error):
            return None
        raise


def _configuration(cloud: Cloud, config: str) -> dict[str, Any]:
    """Return an endpoint's configuration; one without variants where there is none."""
    nothing: dict[str, Any] = {"ProductionVariants": []}
    try:
        return cloud.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config) if config else nothing
    except CloudError as error:
        if is_missing(error):
            return nothing
        raise


def _variants(cloud: Cloud, config: str) -> list[dict[str, Any]]:
    return list(_configuration(cloud, config)["ProductionVariants"])


def _wait(
    cloud: Cloud,
    name: str,
    config: str,
    settings: SageMakerSettings,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> None:
    before = ""
    while True:
        described = _describe(cloud, name)
        if described is None:
            raise EndpointError(f"endpoint {name} was deleted while it was being made")
        status = described["EndpointStatus"]
        if status != before:
            say(f"{name}: {status}")
            before = status
        if status == "Failed":
            reason = described.get("FailureReason", "AWS gives no reason")
            undeploy(cloud, name)
            raise EndpointError(f"endpoint {name} failed and was deleted. {reason}")
        if status == "InService" and described["EndpointConfigName"] == config:
            return
        if status in ("InService", "UpdateRollbackFailed"):
            reason = described.get("FailureReason", "AWS gives no reason")
            raise _NotUpdatedError(f"endpoint {name} was not updated and serves the model that it had. {reason}")
        sleep(settings.poll_seconds)
