"""Answers as AWS's runtime client (`boto3.client("sagemaker-runtime", endpoint_url=...)`) expects them.

Whatever the model refuses or fails at is a ModelError (424) that carries the model's own status and message; too much
load is ServiceUnavailable (503); an unknown endpoint a ValidationError (400). Source: the InvokeEndpoint API reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from finepoint.serving.messages import Response, json_response

_ONLY_VARIANT = "AllTraffic"
_VARIANT = {"x-amzn-invoked-production-variant": _ONLY_VARIANT}
_TARGET_VARIANT, _TARGET_MODEL = "x-amzn-sagemaker-target-variant", "x-amzn-sagemaker-target-model"


def translated(response: Response) -> Response:
    """Return what `/invocations` answers as `/endpoints/NAME/invocations` does.

    >>> translated(Response(b'{"error": {"message": "no image"}}', 400)).status
    424
    """
    status = response.status
    if status < 400:
        return Response(response.body, status, response.content_type, {**_VARIANT, **response.headers})
    if "x-amzn-errortype" in response.headers:
        return response
    message = _message(response)
    if status == 503:
        return json_response({"Message": message}, 503, {**response.headers, "x-amzn-errortype": "ServiceUnavailable"})
    value = {
        "Message": f"Received {'client' if status < 500 else 'server'} error ({status}) from the model: {message}",
        "OriginalStatusCode": status,
        "OriginalMessage": message,
        "LogStreamArn": "",
    }
    return json_response(value, 424, {**_VARIANT, "x-amzn-errortype": "ModelError"})


def misdirected(asked: str, own: str, headers: Mapping[str, str], *, many_models: bool = False) -> Response | None:
    """Return the refusal of a request that means another endpoint, variant or model than is here, or None.

    Args:
        asked: the endpoint's name in the path.
        own: the endpoint's name.
        headers: of the request.
        many_models: whether the endpoint holds many, so that a request must say which.
    """
    variant, model = headers.get(_TARGET_VARIANT, _ONLY_VARIANT), target_model(headers)
    if asked != own:
        return invalid(f"there is no endpoint {asked!r} here")
    if variant != _ONLY_VARIANT:
        return invalid(f"endpoint {own!r} has no variant {variant[:200]!r}, only {_ONLY_VARIANT}")
    if many_models and not model:
        return invalid(f"endpoint {own!r} holds many models; name one as TargetModel")
    if model and not many_models:
        return invalid(f"endpoint {own!r} holds one model; TargetModel is for endpoints of many")
    return None


def target_model(headers: Mapping[str, str]) -> str:
    """Return the model that a request asks for, or ""."""
    return headers.get(_TARGET_MODEL, "")


def invalid(message: str) -> Response:
    """Return the answer to a request that is none to this endpoint."""
    return json_response({"Message": message}, 400, {"x-amzn-errortype": "ValidationError"})


def not_ready(model: str) -> Response:
    """Return the answer to a request for a model that is being loaded."""
    message = f"model {model!r} is being loaded; try again"
    return json_response({"Message": message}, 429, {"x-amzn-errortype": "ModelNotReadyException"})


def _message(response: Response) -> str:
    try:
        return str(json.loads(response.body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.body[:1000].decode(errors="replace")
