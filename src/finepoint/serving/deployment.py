"""Starting and stopping endpoints on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from finepoint.errors import ConfigurationError, EndpointError, NotFoundError
from finepoint.files import read_json, write_json
from finepoint.models.made_here import maker_of
from finepoint.models.package import has_own_handler, open_package
from finepoint.serving import registry
from finepoint.serving.canary import CanaryPlan
from finepoint.serving.capture import CaptureSettings
from finepoint.serving.client import Endpoint
from finepoint.serving.registry import EndpointRecord
from finepoint.serving.server import open_listener
from finepoint.serving.trust import trusted
from finepoint.serving.versions import package_version

_ON = "on"
_OF_CAPTURE = ("capture-folder", "capture-bytes")
State = Literal["healthy", "unhealthy", "stale"]
_POLL_SECONDS = 0.05
# As SageMaker's hosts do: 30 seconds between SIGTERM and SIGKILL.
_GRACE_SECONDS = 30.0
# Until a model must be loaded: a handler that loads longer than five minutes is taken to hang.
START_SECONDS, LONGEST_START_SECONDS = 60.0, 300.0
# For the processes' own start, and for their last words.
_MARGIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class EndpointState:
    """An endpoint and how it is.

    Args:
        record: as it was deployed.
        state: `healthy`, `unhealthy` (it does not answer), or `stale` (its process is gone).
        traffic: `requests`, `rejected`, `answers_per_second` over the last minute, `p50_seconds` and `p99_seconds` of
            the last 1,000 answers; empty where the endpoint does not tell: it wants a token other than
            `$FINEPOINT_TOKEN`, or does not answer.
    """

    record: EndpointRecord
    state: State
    traffic: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may reach an endpoint, what its package may do, and what computes it.

    Args:
        token_file: file with the token that clients must show, or None.
        no_auth: everybody may ask who can reach the address.
        tls_certificate: PEM file, or None for plain HTTP.
        tls_key: its key.
        allow_code: run the package's own `code/inference.py`.
        runtime: that computes a package with the built-in handler, of `RUNTIMES`.
    """

    token_file: Path | None = None
    no_auth: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    allow_code: bool = False
    runtime: str = "auto"

    def settings(self) -> dict[str, str]:
        """Return what belongs to the endpoint, whatever it serves, by the flag's name."""
        paths = {"token-file": self.token_file, "tls-certificate": self.tls_certificate, "tls-key": self.tls_key}
        given = {name: str(path.resolve()) for name, path in paths.items() if path}
        return given | ({"no-auth": _ON} if self.no_auth else {})

    def package_options(self) -> list[str]:
        """Return as flags of the server what belongs to the package: whether its code may run, what computes it."""
        return [
            *(["--allow-code"] if self.allow_code else []),
            *([] if self.runtime == "auto" else ["--runtime", self.runtime]),
        ]

    def options(self) -> list[str]:
        """Return all of it as flags of the server."""
        settings = self.settings().items()
        given = [text for name, value in settings for text in (f"--{name}", value) if text != _ON]
        return [*given, *self.package_options()]


def deploy(
    model: Path,
    *,
    name: str,
    host: str | None = None,
    port: int = 0,
    start_seconds: float = START_SECONDS,
    access: Access | None = None,
    capture: CaptureSettings | None = None,
    canary: CanaryPlan | None = None,
    say: Callable[[str], None] | None = None,
) -> Endpoint:
    """Put a package behind an endpoint of this name, wait until it is healthy, and return the endpoint.

    The endpoint's processes outlive this one. Where the name has an endpoint already it goes over to the new package
    without failing a request; it keeps its address, its access, and what it captures. Whether a package's code may run
    and what computes it is said anew for each package.

    Args:
        model: a `model.tar.gz`, or its folder.
        name: the endpoint's; unique on this machine.
        host: address to bind to, by default 127.0.0.1; another one than loopback needs a token or `no_auth`.
        port: to bind to; 0 takes a free one.
        start_seconds: until it must be healthy, above 0 to 300.
        access: who may reach it, and what the package may do.
        capture: what is kept of requests and answers.
        canary: over a running endpoint: the new package first gets a share of the requests.
        say: is told what came of that, and that a package's own code runs because this machine made it.

    Raises:
        ConfigurationError: the name breaks the rule; the port is taken; the endpoint runs this package already, or
            with another address, access or capture than given; there is no endpoint that a canary could stand beside.
        PackageError: the package cannot be served.
        EndpointError: the server did not become healthy; the message has the end of its log.
    """
    registry.check_name(name)
    if not 0 < start_seconds <= LONGEST_START_SECONDS:
        raise ConfigurationError(
            f"start_seconds is {start_seconds:g}; it must be above 0 and at most {LONGEST_START_SECONDS:g}"
        )
    access, say = access or Access(), say or _nothing
    if not access.allow_code and (maker := maker_of(model)) and has_own_handler(open_package(model, foreign=True)):
        say(f"{model} runs its code/inference.py with your rights: {maker} made it on this machine")
    plan = _Plan(model.resolve(), package_version(model), access, start_seconds)
    wanted = _settings(host, port, access, capture)
    with registry.locked_name(name):
        taken = registry.find(name)
        if taken is not None and (running := taken.process()) is not None:
            _refuse_changes(taken, wanted)
            return _update(taken, running, plan, canary, say)
        if canary is not None:
            raise ConfigurationError(f"a canary stands beside a running endpoint, and {name!r} is none; leave it out")
        return _create(name, wanted, plan, capture)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an endpoint is to serve."""

    model: Path
    version: str
    access: Access
    start_seconds: float


def _settings(host: str | None, port: int, access: Access, capture: CaptureSettings | None) -> dict[str, str]:
    """Return, by the flag's name, what was asked of an endpoint that an update cannot change."""
    given = {"host": host or "", "port": str(port or ""), **access.settings()}
    if capture is not None:
        given |= {"capture": f"{capture.share:g}", "capture-folder": str(capture.folder.resolve())}
        given |= {"capture-images": _ON if capture.images else "", "capture-bytes": str(capture.max_bytes)}
    return {name: value for name, value in given.items() if value}


def _refuse_changes(taken: EndpointRecord, wanted: Mapping[str, str]) -> None:
    """Refuse what would be ignored: these belong to the endpoint's socket and process, which an update keeps."""
    remedy = f"an update cannot change it; leave it out, or `finepoint undeploy {taken.name}` first"
    mistakes = [
        f"--{name}{'' if value == _ON else f' {value}'}: endpoint {taken.name!r} runs "
        f"{f'with {taken.settings[name]}' if name in taken.settings else 'without'}; {remedy}"
        for name, value in wanted.items()
        if taken.settings.get(name) != value and (name not in _OF_CAPTURE or "capture" in taken.settings)
    ]
    if mistakes:
        raise ConfigurationError(mistakes)


def _create(name: str, wanted: Mapping[str, str], plan: _Plan, capture: CaptureSettings | None) -> Endpoint:
    """Start an endpoint. From before its first process on the registry has its entry, whoever is killed when."""
    host = wanted.get("host", "127.0.0.1")
    with open_listener(host, int(wanted.get("port", 0))) as listener:
        port = listener.getsockname()[1]
        scheme = "https" if plan.access.tls_certificate else "http"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        with registry.locked():
            registry.write(
                EndpointRecord(
                    name=name,
                    url=url,
                    pid=os.getpid(),
                    process_started=psutil.Process().create_time(),
                    model=str(plan.model),
                    model_version=plan.version,
                    started_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    settings={**wanted, "host": host, "port": str(port)},
                )
            )
        options = [*plan.access.options(), *(capture.options() if capture else ())]
        process = None
        try:
            process = _start(plan, name, host, listener, options)
            _wait_until_healthy(process, name, url, wanted.get("tls-certificate", ""), plan.start_seconds)
        except BaseException:
            _end(process)
            for number in (os.getpid(), *([process.pid] if process else [])):
                registry.forget(name, number)
            raise
    return _endpoint(name, url, plan.version, wanted)


def undeploy(name: str) -> None:
    """Stop an endpoint (it finishes what it has begun) and remove it from the registry.

    Raises:
        NotFoundError: there is none of this name.
    """
    with registry.locked_name(name):
        record = registry.find(name)
        if record is None:
            raise NotFoundError(_unknown(name))
        while record is not None:
            _end(record.process())
            record = registry.forget(name, record.pid)  # another supervisor may just have taken its place


def undeploy_all() -> list[str]:
    """Stop every endpoint on this machine and return their names."""
    names = [record.name for record in registry.read_all()]
    for name in names:
        undeploy(name)
    return names


def endpoints() -> list[EndpointState]:
    """Return every endpoint on this machine and how it is."""
    return [_state(record) for record in registry.read_all()]


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
    return _endpoint(record.name, record.url, record.model_version, record.settings)


def _endpoint(name: str, url: str, version: str, settings: Mapping[str, str]) -> Endpoint:
    """Return an endpoint of this machine; the certificate that it was deployed with is trusted, and no other."""
    own = settings.get("tls-certificate")
    return Endpoint(name, url, version, ca=own, pinned=True) if own else Endpoint(name, url, version)


def _unknown(name: str) -> str:
    known = ", ".join(record.name for record in registry.read_all())
    return f"there is no endpoint {name!r} on this machine; {f'there are {known}' if known else 'there are none'}"


def _state(record: EndpointRecord) -> EndpointState:
    if record.process() is None:
        return EndpointState(record, "stale", {})
    certificate = record.settings.get("tls-certificate", "")
    if _asked(record.url, "/ping", certificate) is None:
        return EndpointState(record, "unhealthy", {})
    return EndpointState(record, "healthy", (_asked(record.url, "/metadata", certificate) or {}).get("traffic", {}))


def _asked(url: str, path: str, certificate: str) -> dict[str, Any] | None:
    """Return what an endpoint of this machine says, or None where it does not."""
    import httpx

    token = os.environ.get("FINEPOINT_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        # The certificate that it was deployed with, and no other; the address is ours, and need not be in it.
        verify = trusted(certificate, pinned=bool(certificate))
        answer = httpx.get(f"{url}{path}", headers=headers, timeout=2, trust_env=False, verify=verify)
        return dict(answer.json()) if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError, ConfigurationError):
        return None


def _update(
    taken: EndpointRecord,
    running: psutil.Process,
    plan: _Plan,
    canary: CanaryPlan | None,
    say: Callable[[str], None],
) -> Endpoint:
    """Move an endpoint to another package: the new worker is warm before the old one stops accepting."""
    if plan.version == taken.model_version:
        raise ConfigurationError(
            f"endpoint {taken.name!r} exists already, at {taken.url}, and serves this model; "
            f"`finepoint undeploy {taken.name}` removes it, or give another --name"
        )
    identity = f"{os.getpid()}-{time.time_ns()}"
    registry.outcome_path(taken.name).unlink(missing_ok=True)
    wanted = {
        "id": identity,
        "model": str(plan.model),
        "options": plan.access.package_options(),
        "start_seconds": plan.start_seconds,
        "canary": canary.to_json() if canary else None,
    }
    write_json(registry.wanted_path(taken.name), wanted)
    log = registry.log_path(taken.name)
    before = log.stat().st_size if log.is_file() else 0
    running.send_signal(signal.SIGHUP)
    seconds = plan.start_seconds + _MARGIN_SECONDS + (plan.start_seconds + canary.seconds if canary else 0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and running.is_running():
        if registry.outcome_path(taken.name).is_file():
            outcome = read_json(registry.outcome_path(taken.name))
            if outcome["id"] == identity and outcome["failure"]:
                raise EndpointError(
                    f"endpoint {taken.name!r} was not updated: {outcome['failure']}: {_log_end(taken.name, before)}"
                )
            if outcome["id"] == identity:
                if tried := outcome["canary"]:
                    say(f"The canary got {tried['requests']} requests and failed at {tried['failed']}: it takes over")
                return _endpoint(taken.name, taken.url, plan.version, taken.settings)
        time.sleep(_POLL_SECONDS)
    why = f"its supervisor did not say within {seconds:g} s" if running.is_running() else "its supervisor has ended"
    raise EndpointError(f"endpoint {taken.name!r} was not updated: {why}; {_log_end(taken.name, before)}")


def _nothing(_text: str) -> None:
    return


def _start(plan: _Plan, name: str, host: str, listener: socket.socket, options: Sequence[str]) -> psutil.Process:
    command = [sys.executable, "-m", "finepoint.serving.supervisor", "--model", str(plan.model), "--name", name]
    command += ["--host", host, "--listen-fd", str(listener.fileno()), "--predecessor", str(os.getpid())]
    command += ["--start-seconds", repr(plan.start_seconds), "--registered", *options]
    command += ["--request-log", str(registry.request_log_path(name).resolve())]
    log = (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(registry.log_path(name)), *log),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        # A lock or a pipe of who deploys is not to be held as long as the endpoint lives.
        *((os.POSIX_SPAWN_CLOSE, number) for number in _inherited()),
        (os.POSIX_SPAWN_DUP2, listener.fileno(), listener.fileno()),
    ]
    # Not `subprocess`: it wants its children to end before it does, and this one is to stay.
    return psutil.Process(os.posix_spawn(command[0], command, os.environ, file_actions=files, setsid=True))


def _inherited() -> list[int]:
    """Return the file descriptors beyond the first three that a child would get."""
    numbers = [int(path.name) for path in Path("/dev/fd").glob("*")]
    found = []
    for number in numbers:
        with contextlib.suppress(OSError):  # the one that listed them is closed again
            if number > 2 and os.get_inheritable(number):
                found.append(number)
    return found


def _wait_until_healthy(process: psutil.Process, name: str, url: str, certificate: str, start_seconds: float) -> None:
    """Return once the server is healthy; the supervisor keeps the time that a model has to load."""
    deadline = time.monotonic() + start_seconds + _MARGIN_SECONDS
    while time.monotonic() < deadline:
        if (code := _exit_code(process)) is not None:
            words = _log_end(name)
            kind = ConfigurationError if code == 2 else EndpointError
            raise kind(f"the server of endpoint {name!r} could not start: {words}")
        found = _asked(url, "/ping", certificate)
        if found is not None and found.get("endpoint") == name:
            return
        time.sleep(_POLL_SECONDS)
    raise EndpointError(f"endpoint {name!r} was not healthy after {start_seconds:g} s: {_log_end(name)}")


def _exit_code(process: psutil.Process) -> int | None:
    try:
        code = process.wait(timeout=0)
        return 1 if code is None else int(code)
    except psutil.TimeoutExpired:
        return None


def _log_end(name: str, since: int = 0) -> str:
    """Return the last error that an endpoint's processes wrote after the first `since` bytes of its log."""
    path = registry.log_path(name)
    lines = path.read_bytes()[since:].decode(errors="replace").strip().splitlines() if path.is_file() else []
    errors = [place for place, line in enumerate(lines) if line.startswith("error: ")]
    if errors:
        return "\n".join(lines[errors[-1] :]).removeprefix("error: ")
    return "\n".join(lines[-10:]) or f"it wrote nothing to {path}"


def _end(process: psutil.Process | None) -> None:
    """Stop a server gracefully, or by force after its time is up."""
    if process is None:
        return
    try:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=_GRACE_SECONDS + 5)  # the supervisor gives its worker the grace
    except psutil.TimeoutExpired:
        process.kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
