"""The entry point of a SageMaker hosting container: `python -m finepoint.serving.sagemaker serve`.

The platform puts the extracted model under `/opt/ml/model`, asks at port 8080, and is the only one who can: no
token is demanded, and a handler in the model's `code/` runs, because who made the container made the model too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from finepoint.serving.__main__ import main as serve

_MEGABYTE = 2**20


def options(environment: Mapping[str, str]) -> list[str]:
    """Return the server's flags for a container's environment.

    Args:
        environment: `SAGEMAKER_BASE_DIR` moves `/opt/ml`, `SAGEMAKER_BIND_TO_PORT` the port,
            `FINEPOINT_BIND_TO_HOST` the address (by default all of the container's),
            `SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS` (or `SAGEMAKER_MODEL_SERVER_TIMEOUT`) bounds a request,
            `SAGEMAKER_MAX_PAYLOAD_IN_MB` its body, as in the official inference toolkit;
            `SAGEMAKER_MULTI_MODEL=true` serves many models, at most `FINEPOINT_MAX_MODELS` at once.

    >>> options({"SAGEMAKER_BIND_TO_PORT": "9000"})[:4]
    ['--model', '/opt/ml/model', '--port', '9000']
    """
    base = environment.get("SAGEMAKER_BASE_DIR", "/opt/ml")
    if environment.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true":
        # The platform decides which models are loaded, and evicts them where we say that there is no room.
        given = ["--models", f"{base}/models", "--max-models", environment.get("FINEPOINT_MAX_MODELS", "0")]
    else:
        given = ["--model", f"{base}/model"]
    given += ["--port", environment.get("SAGEMAKER_BIND_TO_PORT", "8080")]
    # The platform alone reaches the container.
    host = environment.get("FINEPOINT_BIND_TO_HOST", "0.0.0.0")  # noqa: S104
    given += ["--name", "model", "--host", host, "--no-auth", "--allow-code"]
    seconds = environment.get("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS") or environment.get(
        "SAGEMAKER_MODEL_SERVER_TIMEOUT"
    )
    if seconds:
        given += ["--request-seconds", seconds]
    if megabytes := environment.get("SAGEMAKER_MAX_PAYLOAD_IN_MB"):
        given += ["--max-body-bytes", str(int(megabytes) * _MEGABYTE)]
    return given


def main(arguments: Sequence[str]) -> int:
    """Serve, when the platform says so."""
    if list(arguments) != ["serve"]:
        sys.stderr.write(f"this container only serves; it was asked to {' '.join(arguments) or 'do nothing'}\n")
        return 2
    return serve(options(os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
