"""The stand-in's HTTP server: SageMaker by this package, everything else by moto, with faults before both."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from finepoint.engines.rehearsal.control import Platform, ServiceError, quotas, request_id
from finepoint.engines.rehearsal.faults import ANSWERS, Faults
from finepoint.engines.rehearsal.objects import Objects
from finepoint.engines.sagemaker.rates import rate_table

_CONTROL = "SageMaker."
_INVOKE = re.compile(r"/endpoints/([^/]+)/(invocations|async-invocations)")
_S3_QUERIES: Mapping[str, Mapping[str, str]] = {
    "uploads": {"GET": "ListMultipartUploads", "POST": "CreateMultipartUpload"},
    "uploadId": {
        "PUT": "UploadPart",
        "POST": "CompleteMultipartUpload",
        "GET": "ListParts",
        "DELETE": "AbortMultipartUpload",
    },
    "delete": {"POST": "DeleteObjects"},
    "policyStatus": {"GET": "GetBucketPolicyStatus"},
    "publicAccessBlock": {"GET": "GetPublicAccessBlock"},
    "acl": {"GET": "GetBucketAcl"},
    "location": {"GET": "GetBucketLocation"},
}
# The services that speak XML; S3 has words of its own for the same faults.
_XML = ("s3", "sts", "iam")
Environ = Mapping[str, Any]
StartResponse = Callable[..., Any]


class Rehearsal:
    """The server of a rehearsal; a context manager that ends everything it began.

    Args:
        cache: folder for the containers' environment, kept between rehearsals.
        region: that it plays.
        port: to listen at on 127.0.0.1; 0 takes a free one.
        pause: seconds that a training job stays `Starting`.
    """

    def __init__(self, cache: Path, region: str = "us-east-1", port: int = 0, pause: float = 0.0) -> None:
        self.faults = Faults()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer = make_server(
            "127.0.0.1", port, self._answer, threaded=True, request_handler=_Quiet
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.region = region
        objects = Objects(self.url, region)
        self.platform = Platform(objects, cache, region, self.url, pause)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Rehearsal:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.platform.close()
        self._server.shutdown()
        self._server.server_close()

    def variables(self) -> dict[str, str]:
        """Return the variables by which boto3, and so finepoint, finds the rehearsal instead of AWS."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "rehearsal",
            "AWS_SECRET_ACCESS_KEY": "rehearsal",
            "AWS_DEFAULT_REGION": self.region,
        }

    def prepare(self, bucket: str) -> str:
        """Make a bucket and a role that SageMaker may assume, and return the role's ARN."""
        self.platform.objects.make_bucket(bucket)
        return self.platform.objects.make_role("finepoint")

    def _answer(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        invoked = _INVOKE.fullmatch(unquote(environ.get("PATH_INFO", "")))
        if target.startswith(_CONTROL):
            service, operation = "sagemaker", target.removeprefix(_CONTROL)
        elif invoked:
            asynchronous = invoked.group(2).startswith("async")
            service, operation = "sagemaker-runtime", "InvokeEndpointAsync" if asynchronous else "InvokeEndpoint"
        else:
            service, operation = _elsewhere(environ)
        own = "Credential=platform/" in environ.get("HTTP_AUTHORIZATION", "")
        kind = None if own else self.faults.see(service, operation)
        if kind == "cut":
            raise ConnectionAbortedError
        if kind in ANSWERS:
            return _refuse(service, kind or "", start)
        answer = self._serve(service, operation, invoked, environ, start, kind or "")
        if kind == "timeout":
            b"".join(answer)
            raise ConnectionAbortedError
        return answer

    def _serve(
        self,
        service: str,
        operation: str,
        invoked: re.Match[str] | None,
        environ: dict[str, Any],
        start: StartResponse,
        kind: str,
    ) -> Iterable[bytes]:
        if operation == "ListServiceQuotas":  # moto has no quotas of SageMaker's
            return _json(start, 200, quotas(self.platform, rate_table()["dollars_per_hour"]))
        if service == "sagemaker":
            fate = kind if kind in ("capacity", "interrupt") else ""
            return self._control(operation, _body(environ), start, fate)
        if invoked:
            return self._invoke(invoked.group(1), operation, environ, start)
        found: Iterable[bytes] = self._moto(environ, start)
        return found

    def _control(self, operation: str, body: bytes, start: StartResponse, fate: str) -> Iterable[bytes]:
        try:
            value = self.platform.answer(operation, json.loads(body or b"{}"), fate)
        except ServiceError as error:
            return _json(start, error.status, {"__type": error.code, "message": str(error)})
        return _json(start, 200, value)

    def _invoke(self, name: str, operation: str, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        endpoint = self.platform.endpoints.get(name)
        if endpoint is None or endpoint.status not in ("InService", "Updating"):
            message = f"Endpoint {name} of account was not found."
            return _json(start, 400, {"Message": message}, "ValidationError")
        content_type = environ.get("CONTENT_TYPE") or "application/octet-stream"
        if operation == "InvokeEndpointAsync":
            kind = environ.get("HTTP_X_AMZN_SAGEMAKER_CONTENT_TYPE", content_type)
            accept = environ.get("HTTP_X_AMZN_SAGEMAKER_ACCEPT", "*/*")
            places = endpoint.invoke_async(environ["HTTP_X_AMZN_SAGEMAKER_INPUTLOCATION"], kind, accept)
            names = ("X-Amzn-SageMaker-OutputLocation", "X-Amzn-SageMaker-FailureLocation")
            found = [(name, place) for name, place in zip(names, places, strict=True) if place]
            start("202 Accepted", [("Content-Type", "application/json"), *found])
            return [json.dumps({"InferenceId": request_id()}).encode()]
        status, body, kind = endpoint.invoke(_body(environ), content_type, environ.get("HTTP_ACCEPT", "*/*"))
        if status != 200:
            value: dict[str, Any] = {"OriginalMessage": body.decode(errors="replace"), "OriginalStatusCode": status}
            message = f'Received server error ({status}) from primary with message "{value["OriginalMessage"][:500]}"'
            return _json(start, 424, {**value, "Message": message}, "ModelError")
        start("200 OK", [("Content-Type", kind), ("x-Amzn-Invoked-Production-Variant", "AllTraffic")])
        return [body]


def _elsewhere(environ: Environ) -> tuple[str, str]:
    """Return service and operation of a request that moto answers."""
    signed = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    service = signed.group(1) if signed else "s3"
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return service, str(target).rpartition(".")[2]
    if service != "s3":
        return service, str(environ.get("PATH_INFO", ""))
    method = str(environ["REQUEST_METHOD"])
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    for name, operations in _S3_QUERIES.items():
        if name in query and method in operations:
            return "s3", operations[method]
    bucket, _, key = environ.get("PATH_INFO", "").lstrip("/").partition("/")
    names: dict[str, str] = {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
    if not key:
        names = {"GET": "ListObjectsV2" if bucket else "ListBuckets", "PUT": "CreateBucket", "HEAD": "HeadBucket"}
    return "s3", names.get(method, method)


def _refuse(service: str, kind: str, start: StartResponse) -> Iterable[bytes]:
    status, code, message = ANSWERS[kind]
    if service == "s3":
        words = {"throttle": (503, "SlowDown"), "expired": (400, "ExpiredToken")}
        status, code = words.get(kind, (500, "InternalError"))
    if service in _XML:
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        body = error if service == "s3" else f"<ErrorResponse>{error}</ErrorResponse>"
        start(f"{status} Error", [("Content-Type", "application/xml")])
        return [body.encode()]
    return _json(start, status, {"__type": code, "message": message}, code)


def _json(start: StartResponse, status: int, value: Any, code: str = "") -> Iterable[bytes]:
    headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-RequestId", request_id())]
    if code:
        headers.append(("x-amzn-ErrorType", code))
    start(f"{status} {'OK' if status < 300 else 'Error'}", headers)
    return [json.dumps(value, default=_plain).encode()]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value))


def _body(environ: Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


class _Quiet(WSGIRequestHandler):
    """Says nothing for each request, and closes the connection where a fault wants that."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        """Close without an answer."""
        self.close_connection = True
