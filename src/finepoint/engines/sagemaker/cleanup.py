"""Removing what a run, a job or an endpoint left in AWS, by what was written down before it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.engines.sagemaker.endpoints import delete
from finepoint.engines.sagemaker.hosting import unscale
from finepoint.engines.sagemaker.ledger import Ledger, Resource, ledgers
from finepoint.engines.sagemaker.transfer import abandon_upload
from finepoint.errors import CloudError, NotFoundError

# An endpoint goes before what it is made of; what costs most goes first.
_ORDER = ("scaling", "endpoint", "training-job", "tuning-job", "transform-job", "endpoint-config", "model", "upload")


@dataclass(frozen=True)
class Removed:
    """What became of one resource.

    Args:
        resource: as it was written down.
        was_there: whether AWS still had it, running or standing.
        failure: why it could not be stopped or deleted; "" where it is gone.
    """

    resource: Resource
    was_there: bool
    failure: str = ""


def cleanup(name: str, cloud_for: Callable[[str], Cloud]) -> list[Removed]:
    """Stop or delete everything that a run, job or endpoint created and that is not known to be gone.

    What AWS refuses does not keep the rest: each resource is tried, and what failed stays in the ledger.

    Args:
        name: of the run, job or endpoint.
        cloud_for: returns the account in a region.

    Raises:
        NotFoundError: nothing was written down under that name.
    """
    ledger = Ledger(name)
    resources = ledger.resources()
    if not resources:
        known = ", ".join(one.name for one in ledgers()) or "nothing"
        raise NotFoundError(f"nothing was created in AWS for {name!r}; known: {known}")
    clouds: dict[str, Cloud] = {}
    removed = []
    for resource in sorted((one for one in resources if not one.gone), key=lambda one: _ORDER.index(one.kind)):
        if resource.region not in clouds:
            clouds[resource.region] = cloud_for(resource.region)
        try:
            was_there = _remove(clouds[resource.region], resource)
        except CloudError as error:
            removed.append(Removed(resource, True, str(error)))
            continue
        ledger.strike(resource.kind, resource.name)
        removed.append(Removed(resource, was_there))
    return removed


def _remove(cloud: Cloud, resource: Resource) -> bool:
    if resource.kind in ("endpoint", "endpoint-config", "model"):
        return delete(cloud, resource.kind, resource.name)
    name = resource.name
    if resource.kind == "scaling":
        return unscale(cloud, name)
    if resource.kind == "upload":
        return abandon_upload(cloud, name)
    stops: Mapping[str, Callable[[], dict[str, Any]]] = {
        "training-job": lambda: cloud.call("sagemaker", "StopTrainingJob", TrainingJobName=name),
        "tuning-job": lambda: cloud.call("sagemaker", "StopHyperParameterTuningJob", HyperParameterTuningJobName=name),
        "transform-job": lambda: cloud.call("sagemaker", "StopTransformJob", TransformJobName=name),
    }
    try:
        stops[resource.kind]()
    except CloudError as error:
        # Ended jobs cannot be stopped, and cost nothing.
        if is_missing(error) or error.code == "ValidationException":
            return False
        raise
    return True
