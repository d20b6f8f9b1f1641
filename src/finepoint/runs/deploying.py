"""Deploying a run's model, or a package."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finepoint.engines.packing import check_importable, pack_with_script
from finepoint.files import state_dir
from finepoint.runs.workflow import Run, model_path
from finepoint.serving import registry
from finepoint.serving.canary import CanaryPlan
from finepoint.serving.capture import CaptureSettings
from finepoint.serving.client import Endpoint
from finepoint.serving.deployment import START_SECONDS, Access
from finepoint.serving.deployment import deploy as deploy_package
from finepoint.serving.units import Kind, unit


def deploy(
    model: Run | str | Path,
    *,
    name: str | None = None,
    host: str | None = None,
    port: int = 0,
    start_seconds: float = START_SECONDS,
    access: Access | None = None,
    capture: float | None = None,
    capture_images: bool = False,
    directory: Path | None = None,
    entry_point: str | None = None,
    source_dir: Path | None = None,
    canary: CanaryPlan | None = None,
    say: Callable[[str], None] | None = None,
) -> Endpoint:
    """Put a model behind an endpoint on this machine, wait until it is healthy, and return the endpoint.

    Args:
        model: a run, its name, or a package.
        name: the endpoint's; by default it is the run's, or the package's file name.
        host: address to bind to, by default 127.0.0.1; another one than loopback needs a token or `no_auth`.
        port: to bind to; 0 takes a free one.
        start_seconds: until it must be healthy, above 0 to 300.
        access: who may reach it, and what the package may do.
        capture: share of requests, above 0 to 1, whose answers are kept, in `captures_dir`.
        capture_images: keep the images too.
        directory: that holds runs.
        entry_point: a script of yours that serves the model (`model_fn`, ...); it runs with your rights.
        source_dir: the folder that holds it and what it imports.
        canary: over a running endpoint: the new model first gets a share of the requests.
        say: is told what came of that.

    Raises:
        InputError: there is no such model, or the name or port is taken.
        EndpointError: the server did not become healthy.
    """
    path = model_path(model, directory)
    name = name or default_name(path)
    if entry_point is not None:
        path, access = _with_script(path, name, access, entry_point, source_dir)
    return deploy_package(
        path,
        name=name,
        host=host,
        port=port,
        start_seconds=start_seconds,
        access=access,
        capture=_capture_settings(capture, capture_images),
        canary=canary,
        say=say,
    )


def unit_of(
    kind: Kind,
    model: Run | str | Path,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    start_seconds: float = START_SECONDS,
    access: Access | None = None,
    capture: float | None = None,
    capture_images: bool = False,
    directory: Path | None = None,
    entry_point: str | None = None,
    source_dir: Path | None = None,
) -> str:
    """Return a systemd unit or a compose file that serves a model; arguments and errors as for `deploy`."""
    path = model_path(model, directory)
    name = name or default_name(path)
    if entry_point is not None:
        path, access = _with_script(path, name, access, entry_point, source_dir)
    return unit(
        kind,
        path,
        name=name,
        host=host,
        port=port,
        start_seconds=start_seconds,
        access=access or Access(),
        capture=_capture_settings(capture, capture_images),
    )


def _with_script(
    path: Path, name: str, access: Access | None, entry_point: str, source_dir: Path | None
) -> tuple[Path, Access]:
    """Return a package with a script of the user's in it, and the access with which it may run."""
    check_importable(source_dir)
    packed = pack_with_script(path, entry_point, source_dir, state_dir() / "models" / f"{name}.tar.gz")
    return packed, replace(access or Access(), allow_code=True)  # who names the script has read it


def _capture_settings(share: float | None, images: bool) -> CaptureSettings | None:
    return CaptureSettings(captures_dir(), share, images) if share is not None else None


def captures_dir() -> Path:
    """Return the folder for what endpoints capture, a folder for each."""
    return state_dir() / "captures"


def default_name(package: Path) -> str:
    """Return an endpoint name for a package that no endpoint has yet."""
    place = package.resolve().parent
    place = place.parent if place.name == "output" else place  # a job's
    stem = place.name if package.name == "model.tar.gz" else package.name.split(".")[0]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:50] or "model"
    name, number = stem, 1
    while (record := registry.find(name)) is not None and record.process() is not None:
        number += 1
        name = f"{stem}-{number}"
    return name
