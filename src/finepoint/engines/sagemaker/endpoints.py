"""Endpoints on SageMaker: model, configuration and endpoint; asked, listed with their cost, and deleted again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finepoint.engines.sagemaker.cloud import Cloud, is_missing, is_refused
from finepoint.engines.sagemaker.hosting import (
    Hosting,
    config_request,
    model_request,
    named,
    scale,
    unscale,
    update_request,
)
from finepoint.engines.sagemaker.images import image_for
from finepoint.engines.sagemaker.ledger import Ledger, ledgers
from finepoint.engines.sagemaker.rates import price, refuse_above
from finepoint.engines.sagemaker.requests import tags_of, tell_volume_key
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.transfer import push
from finepoint.errors import CloudError, EndpointError, NotFoundError, RequestError
from finepoint.files import sha256_of

# A day, which is how long a forgotten endpoint runs before most people look.
_ESTIMATE_HOURS = 24.0
_MARK = "finepoint"
_CONFIG = "EndpointConfigName"
_MOVING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")


@dataclass(frozen=True)
class CloudEndpoint:
    """An endpoint in AWS.

    Args:
        name: its name.
        status: `Creating`, `InService`, `Updating`, `Failed`, `Deleting`, ...
        mode: `realtime`, `serverless` or `async`.
        instance_type: of its machines, or "".
        created_at: UTC.
        dollars: what its machines cost so far by the table of rates, or None where that is unknown; as if they had
            been those of now from the beginning.
        run: whose it is, by its tag; "" is somebody else's.
        estimated: whether they were perhaps not: it was updated, or their number changes with the load.
    """

    name: str
    status: str
    mode: str
    instance_type: str
    created_at: str
    dollars: float | None
    run: str
    estimated: bool = False


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

    Model and configuration are named after the endpoint and all that is asked of AWS for them, so that a repeated call
    goes on where an interrupted one ended, and whatever is asked otherwise (another machine, image, role, key) updates
    the endpoint. Then the new configuration is made beside the old one, which is deleted when the new one answers.

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
        say(refuse_above(f"A day of endpoint {name}", kind, _ESTIMATE_HOURS, most, settings.max_price, cloud.region))
        tell_volume_key(kind, settings.kms_key, say)
    run = run or name
    ledger = Ledger(run)
    model, config = _requests(cloud, settings, package, name, hosting, run)
    before = _settled(cloud, name, config[_CONFIG], ledger, settings, say, sleep)
    if before is not None and before[_CONFIG] != config[_CONFIG]:
        say(f"Endpoint {name} is updated; what it serves now goes on answering until the new one does")
    try:
        _submit(cloud, ledger, name, before, model, config, hosting)
    except CloudError as error:
        if is_refused(error):
            _remove_unused(cloud, name, ledger, say)
        raise
    try:
        described = _wait(cloud, name, config[_CONFIG], ledger, settings, say, sleep)
    except _NotUpdatedError as error:
        _remove_unused(cloud, name, ledger, say)
        raise EndpointError(str(error)) from error
    _remove_unused(cloud, name, ledger, say)
    if hosting.max_count:
        ledger.record("scaling", name, cloud.region)
        scale(cloud, name, hosting)
    else:
        _unscale(cloud, name, ledger)
    return _endpoint(cloud, described, run)


def _requests(
    cloud: Cloud, settings: SageMakerSettings, package: Path, name: str, hosting: Hosting, run: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Upload a package, and return the requests of its model and of the configuration that hosts it."""
    url, kind = settings.uri("models", sha256_of(package)[:32], "model.tar.gz"), settings.inference_instance_type
    _upload(cloud, package, url, settings)
    image, tags = image_for("inference", cloud.region, kind, settings.inference_image), tags_of(run, settings)
    model = named("ModelName", name, model_request(url, image, settings, tags))
    config = config_request(
        model["ModelName"],
        kind,
        hosting,
        tags,
        answers=settings.uri("answers"),
        captured=settings.uri("captured"),
        kms_key=settings.kms_key,
    )
    return model, named(_CONFIG, name, config)


def _submit(
    cloud: Cloud,
    ledger: Ledger,
    name: str,
    before: Mapping[str, Any] | None,
    model: Mapping[str, Any],
    config: Mapping[str, Any],
    hosting: Hosting,
) -> None:
    """Make what an endpoint needs, and the endpoint, or update the one that is there."""
    region, asked = cloud.region, {"EndpointName": name, _CONFIG: config[_CONFIG]}
    machine = str(config["ProductionVariants"][0].get("InstanceType", ""))
    with ledger.creating("model", model["ModelName"], region, part_of=name):
        cloud.call("sagemaker", "CreateModel", **model)
    with ledger.creating("endpoint-config", config[_CONFIG], region, part_of=name):
        cloud.call("sagemaker", "CreateEndpointConfig", **config)
    if before is None:
        with ledger.creating("endpoint", name, region, machine):
            cloud.call("sagemaker", "CreateEndpoint", **asked, Tags=config["Tags"])
        return
    ledger.record("endpoint", name, region, machine)
    if before[_CONFIG] != config[_CONFIG]:
        cloud.call("sagemaker", "UpdateEndpoint", **asked, **update_request(hosting))


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
    parts = sorted({*_parts(cloud, described), *_made_for(ledger, name)})
    gone = []
    for kind, one in [("endpoint", name), *parts]:
        delete(cloud, kind, one)
        ledger.strike(kind, one)  # type: ignore[arg-type]
        gone.append(f"{kind} {one}")
    return gone


def _parts(cloud: Cloud, described: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the configuration and the models that an endpoint is made of, by kind and name."""
    config = described[_CONFIG]
    variants = _configuration(cloud, config)["ProductionVariants"]
    return {("endpoint-config", config), *(("model", variant["ModelName"]) for variant in variants)}


def _made_for(ledger: Ledger, name: str) -> set[tuple[str, str]]:
    """Return the configurations and models that were made for an endpoint and are not known to be gone."""
    return {(one.kind, one.name) for one in ledger.resources() if one.part_of == name and not one.gone}


def _remove_unused(cloud: Cloud, name: str, ledger: Ledger, say: Callable[[str], None]) -> None:
    """Delete the configurations and models that were made for an endpoint and that it does not use (any more)."""
    described = _describe(cloud, name)
    if described is not None and described["EndpointStatus"] != "InService":
        return  # an update or a rollback may need them
    used = set() if described is None else _parts(cloud, described)
    for kind, one in sorted(_made_for(ledger, name) - used):
        try:
            delete(cloud, kind, one)
        except CloudError as error:
            say(
                f"warning: {kind} {one}, which nothing uses, is left; the next update or `undeploy` deletes it. {error}"
            )
        else:
            ledger.strike(kind, one)  # type: ignore[arg-type]


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
            found.append(_endpoint(cloud, _describe(cloud, entry["EndpointName"]) or entry, run))
    return found


def _endpoint(cloud: Cloud, described: Mapping[str, Any], run: str) -> CloudEndpoint:
    configuration = _configuration(cloud, described.get(_CONFIG, ""))
    variant: dict[str, Any] = next(iter(configuration["ProductionVariants"]), {})
    running: dict[str, Any] = next(iter(described.get("ProductionVariants", ())), {})
    kind, begun = str(variant.get("InstanceType", "")), int(variant.get("InitialInstanceCount", 1))
    count = int(running.get("CurrentInstanceCount", begun))
    created: datetime = described["CreationTime"]
    hours = (datetime.now(UTC) - created).total_seconds() / 3600
    asynchronous = "AsyncInferenceConfig" in configuration
    mode = "serverless" if "ServerlessConfig" in variant else "async" if asynchronous else "realtime"
    name = described["EndpointName"]
    updated = configuration.get("CreationTime", created) > created
    return CloudEndpoint(
        name,
        described["EndpointStatus"],
        mode,
        kind,
        created.isoformat(),
        price(kind, hours, count) if kind else None,
        run,
        estimated=bool(kind) and (updated or count != begun or _grows(name)),
    )


def _grows(name: str) -> bool:
    """Return whether a policy of growing was made for an endpoint from this machine, now or earlier."""
    return any((one.kind, one.name) == ("scaling", name) for ledger in ledgers() for one in ledger.resources())


def _upload(cloud: Cloud, package: Path, uri: str, settings: SageMakerSettings) -> None:
    push(cloud, {"model.tar.gz": package}, uri.rpartition("/")[0], kms_key=settings.kms_key)


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


def _settled(
    cloud: Cloud,
    name: str,
    config: str,
    ledger: Ledger,
    settings: SageMakerSettings,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> dict[str, Any] | None:
    """Return an endpoint once it may be updated, or comes up with what is asked for; None where there is none."""
    before = ""
    while (described := _describe(cloud, name)) is not None:
        status = described["EndpointStatus"]
        if status == "Failed":
            say(f"Endpoint {name} had failed, and can only be deleted; it is made anew")
            delete(cloud, "endpoint", name)
            ledger.strike("endpoint", name)
        elif status not in _MOVING or (status != "Deleting" and described[_CONFIG] == config):
            return described
        if status != before:
            say(f"{name}: {status}; waiting for the end of that")
            before = status
        sleep(settings.poll_seconds)
    return None


def _wait(
    cloud: Cloud,
    name: str,
    config: str,
    ledger: Ledger,
    settings: SageMakerSettings,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> dict[str, Any]:
    before = ""
    while True:
        described = _describe(cloud, name)
        if described is None:
            raise EndpointError(f"endpoint {name} was deleted while it was being made")
        status = described["EndpointStatus"]
        if status != before:
            say(f"{name}: {status}")
            before = status
        reason = described.get("FailureReason", "AWS gives no reason")
        if status == "Failed":
            undeploy(cloud, name, ledger.name)
            raise EndpointError(f"endpoint {name} failed and was deleted. {reason}")
        if status == "UpdateRollbackFailed":
            raise EndpointError(
                f"endpoint {name} serves both the old and the new model, for AWS could not undo. {reason}"
            )
        if status == "InService":
            if described[_CONFIG] == config:
                return described
            raise _NotUpdatedError(f"endpoint {name} was not updated and serves the model that it had. {reason}")
        sleep(settings.poll_seconds)
