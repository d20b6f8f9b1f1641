"""Files with which something else keeps an endpoint up: a systemd unit, a compose file."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from finepoint.errors import ConfigurationError
from finepoint.files import cache_dir, state_dir
from finepoint.models.package import open_package
from finepoint.serving import registry
from finepoint.serving.__main__ import check_host
from finepoint.serving.capture import CaptureSettings
from finepoint.serving.deployment import START_SECONDS, Access

Kind = Literal["systemd", "compose"]
_PORT = 8080
_MODEL, _SECRETS, _CAPTURES = "/opt/ml/model", "/run/secrets", "/opt/ml/captures"
# The server gives what it has begun 30 seconds.
_STOP_SECONDS = 40


def unit(
    kind: Kind,
    model: Path,
    *,
    name: str,
    host: str,
    port: int,
    start_seconds: float = START_SECONDS,
    access: Access,
    capture: CaptureSettings | None = None,
) -> str:
    """Return the text of a systemd unit or a compose file that serves a package.

    Args:
        kind: which.
        model: a `model.tar.gz`, or its folder.
        name: the endpoint's.
        host: address to bind to; another one than loopback needs a token or `no_auth`.
        port: to bind to; 0 takes 8080, for such a file must name one.
        start_seconds: until the model must be loaded.
        access: who may reach it, and what the package may do.
        capture: what is kept of requests and answers; the folder that compose mounts for it is made.

    Raises:
        ConfigurationError: the name breaks the rule, everybody could ask who reaches the address, the image lacks
            what is to compute, or its user could not read or write what it is to.
        PackageError: it is not a package.
    """
    registry.check_name(name)
    if kind == "compose" and access.runtime in ("cuda", "mps"):
        raise ConfigurationError(f"the image that compose runs has no torch, so that {access.runtime} computes nothing")
    check_host(host, allowed=access.token_file is not None or access.no_auth)
    folder = open_package(model, foreign=True)
    if kind == "systemd":
        return _systemd(model.resolve(), name, host, port or _PORT, start_seconds, access, capture)
    return _compose(folder.resolve(), name, host, port or _PORT, start_seconds, access, capture)


def _systemd(
    model: Path,
    name: str,
    host: str,
    port: int,
    start_seconds: float,
    access: Access,
    capture: CaptureSettings | None,
) -> str:
    command = [sys.executable, "-m", "finepoint.serving.supervisor", "--model", str(model), "--name", name]
    command += ["--host", host, "--port", str(port), "--start-seconds", f"{start_seconds:g}", *access.options()]
    command += capture.options() if capture else []
    own = {"FINEPOINT_CACHE": cache_dir().resolve(), "FINEPOINT_STATE": state_dir().resolve()}
    environment = "\n".join(f"Environment={_quoted(f'{key}={value}')}" for key, value in own.items())
    return f"""\
# ~/.config/systemd/user/finepoint-{name}.service; then
#   systemctl --user daemon-reload && systemctl --user enable --now finepoint-{name}
# For another version of the model change the path below, and restart. `finepoint endpoints` shows only what
# `finepoint deploy` started.
[Unit]
Description=finepoint endpoint {name}

[Service]
ExecStart={" ".join(_quoted(word).replace("$", "$$") for word in command)}
{environment}
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec={_STOP_SECONDS}
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


def _quoted(word: str) -> str:
    """Return a word as systemd reads it back: what looks like a specifier is not to be replaced."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _compose(
    folder: Path,
    name: str,
    host: str,
    port: int,
    start_seconds: float,
    access: Access,
    capture: CaptureSettings | None,
) -> str:
    command = ["python", "-m", "finepoint.serving", "--model", _MODEL, "--name", name]
    command += ["--host", "0.0.0.0", "--port", str(_PORT)]  # noqa: S104 - inside the container
    files = {"token-file": access.token_file, "tls-certificate": access.tls_certificate, "tls-key": access.tls_key}
    volumes: list[dict[str, Any]] = [{"type": "bind", "source": str(folder), "target": _MODEL, "read_only": True}]
    for flag, path in files.items():
        if path is not None:
            command += [f"--{flag}", f"{_SECRETS}/{flag}"]
            volumes.append(
                {"type": "bind", "source": str(path.resolve()), "target": f"{_SECRETS}/{flag}", "read_only": True}
            )
    command += [] if access.token_file else ["--no-auth"]
    command += ["--allow-code"] if access.allow_code else []
    command += [] if access.runtime == "auto" else ["--runtime", access.runtime]
    if capture is not None:
        command += replace(capture, folder=Path(_CAPTURES)).options()
        kept = capture.folder.resolve() / name
        volumes.append({"type": "bind", "source": str(kept), "target": f"{_CAPTURES}/{name}"})
    checked = ["python", "-m", "finepoint.serving.health", "--port", str(_PORT)]
    checked += ["--certificate", f"{_SECRETS}/tls-certificate"] if access.tls_certificate else []
    service: dict[str, Any] = {
        "image": "finepoint-serving",
        "build": {"context": ".", "dockerfile": "docker/Dockerfile"},
        "entrypoint": command,
        "command": [],
        "ports": [f"{f'[{host}]' if ':' in host else host}:{port}:{_PORT}"],
        "volumes": volumes,
        "healthcheck": {
            "test": ["CMD", *checked],
            "interval": "10s",
            "timeout": "3s",
            "retries": 3,
            "start_period": f"{start_seconds:g}s",
        },
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - the container's own
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "stop_grace_period": f"{_STOP_SECONDS}s",
    }
    if os.getuid():
        # Who prints this can read the model, the token and the key; the image's own user cannot.
        service["user"] = f"{os.getuid()}:{os.getgid()}"
    else:
        _check_usable(folder, files, capture)
    if capture is not None:
        kept.mkdir(parents=True, exist_ok=True, mode=0o700)  # Docker would make it root's
    # JSON is YAML; every name is quoted. A `$` is compose's own unless it is doubled.
    text = json.dumps({"services": {name.lower(): service}}, indent=2).replace("$", "$$")
    return (
        f"# compose.yaml, beside finepoint's sources (or remove `build` where the image exists); then\n"
        f"#   docker compose up --detach\n{text}\n"
    )


def _check_usable(folder: Path, files: Mapping[str, Path | None], capture: CaptureSettings | None) -> None:
    """Refuse, where root prints the file, what the image's user could not read or write; it is not to be root."""
    mistakes = [
        f"--{flag} {path} is for root alone; the container runs as another user: `chmod a+r` it, or print the compose "
        "file as the user who is to own the endpoint"
        for flag, path in files.items()
        if path is not None and path.is_file() and not path.stat().st_mode & stat.S_IROTH
    ]
    if not folder.stat().st_mode & stat.S_IXOTH:
        mistakes.append(f"{folder} is for root alone; the container runs as another user: `chmod -R a+rX` it")
    if capture is not None:
        mistakes.append(
            f"--capture keeps answers in {capture.folder}, where the container's user may not write: print the compose "
            "file as the user who is to own the endpoint"
        )
    if mistakes:
        raise ConfigurationError(mistakes)
