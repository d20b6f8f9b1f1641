"""The server's process: `python -m finepoint.serving --model PATH --name NAME --port PORT`."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from pathlib import Path

import uvicorn

from finepoint.errors import ConfigurationError, FinepointError
from finepoint.models.classifier import load_classifier
from finepoint.serving.application import Limits, create_application

_GRACE_SECONDS = 30


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM, finish what was begun, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m finepoint.serving", description="Serve a model package over HTTP.")
    parser.add_argument("--model", type=Path, required=True, help="model.tar.gz, or its folder")
    parser.add_argument("--name", required=True, help="the endpoint's name")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to (a loopback one)")
    parser.add_argument("--port", type=int, default=8080, help="port to bind to")
    parser.add_argument("--max-body-bytes", type=int, default=Limits().body_bytes, help="largest request body")
    parser.add_argument("--allow-remote", action="store_true", help="bind to an address others can reach")
    given = parser.parse_args(arguments)
    try:
        check_host(given.host, allow_remote=given.allow_remote)
        # Loaded before the port is open: a package that cannot be served ends the process with its reason.
        classifier = load_classifier(given.model)
    except FinepointError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    limits = Limits(body_bytes=given.max_body_bytes)
    server = uvicorn.Server(
        uvicorn.Config(
            create_application(lambda: classifier, given.name, limits),
            host=given.host,
            port=given.port,
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    server.run()
    return 0 if server.started else 1


def check_host(host: str, *, allow_remote: bool) -> None:
    """Check that an address is a loopback one, or that others were let in on purpose.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not allow_remote:
        raise ConfigurationError(
            f"{host} can be reached from other machines and the endpoint asks nobody who they are; "
            "bind to 127.0.0.1, or give --allow-remote if that is what you want"
        )


if __name__ == "__main__":
    sys.exit(main())
