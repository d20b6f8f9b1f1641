"""Starting and stopping endpoints on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil

from finepoint.errors import ConfigurationError, EndpointError, NotFoundError
from finepoint.serving import registry
from finepoint.serving.client import Endpoint
from finepoint.serving.registry import EndpointRecord

State = Literal["healthy", "unhealthy", "stale"]
_POLL_SECONDS = 0.05
# As SageMaker's hosts do: 30 seconds between SIGTERM and SIGKILL.
_GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class EndpointState:
    """An endpoint and how it is: `healthy`, `unhealthy` (it does not answer), or `stale` (its process is gone)."""

    record: EndpointRecord
    state: State


def deploy(
    model: Path,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 0,
    timeout_seconds: float = 60.0,
    allow_remote: bool = False,
) -> Endpoint:
    """Start a server for a package, wait until it is healthy, register it, and return the endpoint.

    The server is a process of its own that outlives this one.

    Args:
        model: a `model.tar.gz`, or its folder.
        name: the endpoint's; unique on this machine.
        host: address to bind to; a loopback one unless `allow_remote`.
        port: to bind to; 0 takes a free one.
        timeout_seconds: until it must be healthy.
        allow_remote: bind to an address that other machines can reach.

    Raises:
        ConfigurationError: the name is taken, or breaks the rule; the port is taken.
        PackageError: the package cannot be served.
        EndpointError: the server did not become healthy; the message has the end of its log.
    """
    registry.check_name(name)
    with registry.locked():
        taken = registry.find(name)
        if taken is not None and taken.process() is not None:
            raise ConfigurationError(
                f"endpoint {name!r} exists already, at {taken.url}; `finepoint undeploy {name}` removes it, "
                "or give another --name"
            )
        port = _free_port(host, port)
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        process = _start(model, name, host, port, allow_remote)
        try:
            version = _wait_until_healthy(process, name, url, timeout_seconds)
        except BaseException:
            _end(psutil.Process(process.pid) if process.poll() is None else None)
            raise
        registry.write(
            EndpointRecord(
                name=name,
                url=url,
                pid=process.pid,
                process_started=psutil.Process(process.pid).create_time(),
                model=str(model.resolve()),
                model_version=version,
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
    return Endpoint(name, url, version)


def undeploy(name: str) -> None:
    """Stop an endpoint (it finishes what it has begun) and remove it from the registry.

    Raises:
        NotFoundError: there is none of this name.
    """
    with registry.locked():
        record = registry.find(name)
        if record is None:
            raise NotFoundError(_unknown(name))
        _end(record.process())
        registry.remove(name)


def undeploy_all() -> list[str]:
    """Stop every endpoint on this machine and return their names."""
    names = [record.name for record in registry.read_all()]
    for name in names:
        undeploy(name)
    return names


def endpoints() -> list[EndpointState]:
    """Return every endpoint on this machine and how it is."""
    return [EndpointState(record, _state(record)) for record in registry.read_all()]


def find_endpoint(name_or_url: str) -> Endpoint:
    """Return an endpoint by its name on this machine, or by its address.

    Raises:
        NotFoundError: there is none of this name.
    """
    if name_or_url.startswith(("http://", "https://")):
        return Endpoint(name_or_url, name_or_url.rstrip("/").removesuffix("/invocations"))
    record = registry.find(name_or_url)
    if record is None:
        raise NotFoundError(_unknown(name_or_url))
    return Endpoint(record.name, record.url, record.model_version)


def _unknown(name: str) -> str:
    known = ", ".join(record.name for record in registry.read_all())
    return f"there is no endpoint {name!r} on this machine; {f'there are {known}' if known else 'there are none'}"


def _state(record: EndpointRecord) -> State:
    if record.process() is None:
        return "stale"
    return "healthy" if Endpoint(record.name, record.url).healthy() else "unhealthy"


def _start(model: Path, name: str, host: str, port: int, allow_remote: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "finepoint.serving", "--model", str(model.resolve()), "--name", name]
    command += ["--host", host, "--port", str(port), *(["--allow-remote"] if allow_remote else [])]
    with registry.log_path(name).open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def _wait_until_healthy(process: subprocess.Popen[bytes], name: str, url: str, timeout_seconds: float) -> str:
    """Return the model's version once the server is healthy."""
    import httpx

    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            words = _log_end(name)
            kind = ConfigurationError if process.returncode == 2 else EndpointError
            raise kind(f"the server of endpoint {name!r} could not start: {words}")
        try:
            answer = httpx.get(f"{url}/ping", timeout=2, trust_env=False)
            if answer.status_code == 200 and answer.json().get("endpoint") == name:
                return str(answer.json()["model_version"])
        except (httpx.HTTPError, ValueError):
            pass  # not there yet
        time.sleep(_POLL_SECONDS)
    raise EndpointError(f"endpoint {name!r} was not healthy after {timeout_seconds:.0f} s: {_log_end(name)}")


def _log_end(name: str) -> str:
    path = registry.log_path(name)
    lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
    errors = [place for place, line in enumerate(lines) if line.startswith("error: ")]
    if errors:
        return "\n".join(lines[errors[-1] :]).removeprefix("error: ")
    return "\n".join(lines[-10:]) or f"it wrote nothing to {path}"


def _free_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"{host}:{port} cannot be bound to ({error}); give another --port") from error
        return int(probe.getsockname()[1])


def _end(process: psutil.Process | None) -> None:
    """Stop a server gracefully, or by force after its time is up."""
    if process is None:
        return
    try:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=_GRACE_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
