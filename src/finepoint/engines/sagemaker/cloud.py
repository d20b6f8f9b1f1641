"""The one door to AWS: every call goes through `Cloud.call`, by boto3's own credentials, with retries and plain words.

Only this module makes clients. That every call is named as `call("service", "Operation", ...)` is what lets a test
compare the calls with the policy that docs/sagemaker.md gives.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

from finepoint.errors import CloudError, ConfigurationError

# Tries of one call: botocore's standard mode waits a random part of 1, 2, 4, ... up to 20 seconds between them.
ATTEMPTS = 8
_TIMEOUTS = (10, 60)
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_DENIED = {"AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation"}
_UNKNOWN_CREDENTIALS = {
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
}


_chosen: list[Any] = []


class Cloud:
    """An AWS account in one region.

    Args:
        region: "" takes boto3's.
        attempts: tries of one call.
        session: a boto3 session whose credentials are taken; by default what `use_session` was given, or boto3's own.
    """

    def __init__(self, region: str = "", attempts: int = ATTEMPTS, session: Any = None) -> None:
        try:
            import boto3
        except ImportError as error:
            raise ConfigurationError("boto3 is not installed; pip install 'finepoint[sagemaker]'") from error
        session = session or next(iter(_chosen), None)
        self._session = session or boto3.session.Session(region_name=region or None)
        self._attempts = attempts
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.region: str = region or self._session.region_name or ""
        if not self.region:
            raise ConfigurationError(
                "no AWS region is set; give region in finepoint.toml, --cloud region=, or AWS_REGION"
            )

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation and return its answer.

        Args:
            service: boto3's name of it.
            operation: the API's name, `CreateTrainingJob`.
            parameters: its own.

        Raises:
            ConfigurationError: there are no credentials.
            CloudError: AWS refused, failed, or did not answer; `code` is its error code.
        """
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            answer: dict[str, Any] = getattr(self._client(service), snake(operation))(**parameters)
        except NoCredentialsError as error:
            raise ConfigurationError(
                "no AWS credentials were found; log in (`aws sso login`, `aws configure`) or set AWS_PROFILE"
            ) from error
        except ClientError as error:
            raise _refused(service, operation, error.response.get("Error", {})) from error
        except BotoCoreError as error:
            raise CloudError(f"{service} {operation}: {error}; is the network up, and the region right?") from error
        return answer

    def pages(self, service: str, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield every page of a listing, by its next token."""
        while True:
            page = self.call(service, operation, **parameters)
            yield page
            for key, following in (
                ("NextToken", "NextToken"),
                ("nextToken", "nextToken"),  # of CloudWatch's logs
                ("ContinuationToken", "NextContinuationToken"),
                ("PartNumberMarker", "NextPartNumberMarker"),
            ):
                if page.get(following) and (key != "PartNumberMarker" or page.get("IsTruncated")):
                    parameters[key] = page[following]
                    break
            else:
                return

    def _client(self, service: str) -> Any:
        from botocore.config import Config

        with self._lock:
            if service not in self._clients:
                config = Config(
                    retries={"mode": "standard", "max_attempts": self._attempts},
                    connect_timeout=_TIMEOUTS[0],
                    read_timeout=_TIMEOUTS[1],
                    max_pool_connections=32,
                )
                self._clients[service] = self._session.client(service, region_name=self.region, config=config)
            return self._clients[service]


def use_session(session: Any) -> None:
    """Take the credentials of a boto3 session for every account from now on in this process; None takes boto3's own."""
    _chosen[:] = [] if session is None else [session]


def snake(operation: str) -> str:
    """Return boto3's method name of an operation.

    >>> snake("ListObjectsV2"), snake("CreateHyperParameterTuningJob"), snake("GetBucketAcl")
    ('list_objects_v2', 'create_hyper_parameter_tuning_job', 'get_bucket_acl')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operation).lower()


def is_missing(error: CloudError) -> bool:
    """Return whether AWS said that what was named is not there."""
    words = str(error)
    return error.code in ("404", "NoSuchKey", "NoSuchBucket", "ResourceNotFound", "ResourceNotFoundException") or (
        error.code in ("ValidationException", "ValidationError")
        and any(text in words for text in ("not found", "Could not find", "does not exist"))
    )


def is_taken(error: CloudError) -> bool:
    """Return whether AWS said that the name is taken."""
    return error.code == "ResourceInUse" or "already existing" in str(error)


def is_refused(error: CloudError) -> bool:
    """Return whether AWS refused a call at its first try, so that nothing can have come of it.

    What failed, or was tried again after it failed, may have been done nevertheless.
    """
    metadata = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
    return metadata.get("RetryAttempts") == 0 and int(metadata.get("HTTPStatusCode", 0)) // 100 == 4


def _refused(service: str, operation: str, error: dict[str, Any]) -> CloudError:
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    words = f"{service} {operation}: {message} ({code})"
    if code in _EXPIRED:
        words += ". The credentials have expired; log in again (`aws sso login`) and repeat the command: it goes on"
    elif code in _UNKNOWN_CREDENTIALS:
        words += ". AWS does not know these credentials; check AWS_PROFILE and `aws sts get-caller-identity`"
    elif code in _DENIED:
        words += f". Allow {service}:{operation} to whoever calls; docs/sagemaker.md has the whole policy"
    return CloudError(words, code)
