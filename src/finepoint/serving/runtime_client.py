"""Answers as AWS's runtime client (`boto3.client("sagemaker-runtime", endpoint_url=...)`) expects them.

Whatever the model refuses or fails at is a ModelError (424) that carries the model's own status and message; too much
load is ServiceUnavailable (503); an unknown endpoint a ValidationError (400). Source: the InvokeEndpoint API reference.
"""

from __future__ import annotations

import json

from finepoint.serving.messages import Response, json_response

_VARIANT = {"x-amzn-invoked-production-variant": "AllTraffic"}


def translated(response: Response) -> Response:
    """Return what `/invocations` answers as `/endpoints/NAME/invocations` does.

    >>> translated(Response(b'{"error": {"message": "no image"}}', 400)).status
    424
    """
    status = response.status
    if status < 400:
        return Response(response.body, status, response.content_type, {**_VARIANT, **response.headers})
    if "x-amzn-errortype" in response.headers or status == 401:
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


def unknown_endpoint(name: str) -> Response:
    """Return the answer to a request for an endpoint that is not here."""
    return json_response(
        {"Message": f"there is no endpoint {name!r} here"}, 400, {"x-amzn-errortype": "ValidationError"}
    )


def _message(response: Response) -> str:
    try:
        return str(json.loads(response.body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.body[:1000].decode(errors="replace")
