"""Asking an asynchronous endpoint: the request goes by way of S3, and answer or failure are waited for there."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.engines.sagemaker.endpoints import configuration_of, no_endpoint
from finepoint.engines.sagemaker.objects import split_s3
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.transfer import put
from finepoint.errors import CloudError, EndpointError, RequestError

# SageMaker gives a request 15 minutes when it has been taken from the queue, and 6 hours in it.
TIMEOUT_SECONDS = 900.0
_STATUS = re.compile(r"Received (?:client|server) error \((\d{3})\) from \S+ with message \"(.*)", re.DOTALL)


@dataclass(frozen=True)
class _Pending:
    """A request that an asynchronous endpoint has taken.

    Args:
        answer: the address where the answer will be.
        failure: the address where it is said why there is none; "" where the endpoint has no place for that.
    """

    answer: str
    failure: str


def is_asynchronous(cloud: Cloud, name: str) -> bool:
    """Return whether an endpoint is asked by way of S3.

    Raises:
        NotFoundError: there is no such endpoint.
    """
    return "AsyncInferenceConfig" in configuration_of(cloud, name)


def ask(
    cloud: Cloud,
    settings: SageMakerSettings,
    name: str,
    body: bytes,
    content_type: str,
    accept: str = "application/json",
    custom_attributes: str = "",
    *,
    timeout: float = TIMEOUT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[bytes, str]:
    """Return an asynchronous endpoint's answer and its content type.

    Args:
        cloud: the account.
        settings: where requests are put, and how often to look for the answer.
        name: of the endpoint.
        body: of the request.
        content_type: of the body.
        accept: what is asked for.
        custom_attributes: for the model's handler.
        timeout: seconds to wait for the answer.
        sleep: waits so many seconds between two looks.

    Raises:
        NotFoundError: there is no such endpoint.
        RequestError: the model refused the request, or failed.
        EndpointError: there is no answer yet; the message says where it will be.
    """
    try:
        pending = _submit(cloud, settings, name, body, content_type, accept, custom_attributes)
    except CloudError as error:
        raise (no_endpoint(cloud, name) if is_missing(error) else error) from error
    waited = 0.0
    while (found := _object(cloud, pending.answer)) is None:
        failure = _object(cloud, pending.failure) if pending.failure else None
        if failure is not None:
            raise _refused(failure[0].decode(errors="replace"))
        if waited >= timeout:
            raise _unanswered(name, pending, timeout)
        sleep(settings.poll_seconds)
        waited += settings.poll_seconds
    return found


def _submit(
    cloud: Cloud,
    settings: SageMakerSettings,
    name: str,
    body: bytes,
    content_type: str,
    accept: str,
    custom_attributes: str,
) -> _Pending:
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
    return _Pending(str(answer["OutputLocation"]), str(answer.get("FailureLocation", "")))


def _object(cloud: Cloud, uri: str) -> tuple[bytes, str] | None:
    bucket, key = split_s3(uri)
    try:
        answer = cloud.call("s3", "GetObject", Bucket=bucket, Key=key)
    except CloudError as error:
        if is_missing(error):
            return None
        raise
    return answer["Body"].read(), str(answer.get("ContentType", ""))


def _refused(text: str) -> RequestError:
    found = _STATUS.match(text)
    words = found[2] if found else text
    first = next(iter(words.strip().strip('"').splitlines()), "")  # what follows is the traceback
    return RequestError(first, int(found[1]) if found else 500)


def _unanswered(name: str, pending: _Pending, timeout: float) -> EndpointError:
    failing = f", or the failure at {pending.failure}" if pending.failure else "; it has no place for failures"
    return EndpointError(
        f"endpoint {name} has not answered for {timeout:g} s; the answer will be at {pending.answer}{failing}"
    )
