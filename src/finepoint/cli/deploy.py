"""`finepoint deploy`: put a model behind an endpoint."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finepoint.cli.arguments import Json, ModelArgument, RunsDir
from finepoint.cli.cloud import CloudSetting, Engine, MaxPrice
from finepoint.models.runtime_names import RuntimeName

if TYPE_CHECKING:
    from finepoint.serving.client import Endpoint


def _in_aws(*names: str, text: str, metavar: str | None = None) -> Any:
    """Return a flag of the panel for AWS."""
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel="In AWS")


def command(
    model: ModelArgument,
    name: Annotated[str | None, typer.Option("--name", help="Name of the endpoint.", show_default="the run's")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to bind to.", show_default="127.0.0.1")] = None,
    port: Annotated[int, typer.Option("--port", help="Port to bind to; 0 takes a free one.", min=0, max=65535)] = 0,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the token that clients must show.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody ask who can reach the address (needed beyond loopback).")
    ] = False,
    tls_certificate: Annotated[Path | None, typer.Option("--tls-certificate", help="PEM file; answers HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM file with the certificate's key.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the package's own code/inference.py, with your rights.")
    ] = False,
    runtime: Annotated[
        RuntimeName,
        typer.Option("--runtime", help="What computes; auto: the CPU, cuda: torch on a GPU."),
    ] = "auto",
    entry_point: Annotated[
        str | None,
        typer.Option("--entry-point", help="Your script with model_fn, for a model that a script of yours trained."),
    ] = None,
    source_dir: Annotated[
        Path | None, typer.Option("--source-dir", help="Folder that holds it; without it the script comes alone.")
    ] = None,
    capture: Annotated[
        str | None,
        typer.Option(
            "--capture", help="Keep this share of the answers, such as 10%; in AWS in S3.", show_default="none"
        ),
    ] = None,
    capture_images: Annotated[
        bool, typer.Option("--capture-images", help="With --capture: keep the images too.")
    ] = False,
    canary: Annotated[
        str | None,
        typer.Option("--canary", help="Over a running endpoint: first give the new model this share, as 10%."),
    ] = None,
    start_seconds: Annotated[
        float, typer.Option("--start-seconds", help="Until the model must be loaded.", min=1, max=300)
    ] = 60.0,
    printed: Annotated[
        Literal["systemd", "compose"] | None,
        typer.Option("--print", help="Deploy nothing; print a systemd unit or a compose file that does."),
    ] = None,
    mode: Annotated[
        Literal["realtime", "serverless", "async"], _in_aws("--mode", text="The kind of endpoint.")
    ] = "realtime",
    instances: Annotated[int, _in_aws("--instances", text="Machines; the fewest with --max-instances.")] = 1,
    max_instances: Annotated[
        int, _in_aws("--max-instances", text="Add machines up to so many as the load grows, with --scale-at.")
    ] = 0,
    scale_at: Annotated[
        float, _in_aws("--scale-at", text="Invocations of a machine in a minute above which machines are added.")
    ] = 0.0,
    update: Annotated[
        Literal["all-at-once", "canary", "rolling"],
        _in_aws("--update", text="How an endpoint that is there gets the new model."),
    ] = "all-at-once",
    engine: Engine = "local",
    cloud: CloudSetting = None,
    max_price: MaxPrice = None,
    runs_dir: RunsDir = None,
    json: Json = False,
) -> None:
    """Put a model behind an endpoint on this machine; it goes on when this command has ended.

    Over a running endpoint of the same name the new model is loaded beside the old one and takes over without failing
    a request. With --canary it takes over once it has answered 100 requests of its share, or after 30 seconds; where it
    fails at more than 2 % of what the old model can answer, the old one stays. What it fails at the old one answers.
    --allow-code and --runtime hold for the package that is deployed; address, access and capture are the endpoint's: an
    update that asks for others is refused.

    Examples:

        finepoint deploy first

        finepoint deploy model.tar.gz --name clothes --port 8080

        finepoint deploy first --capture 10% --capture-images

        finepoint deploy second --name clothes --canary 10%

        finepoint deploy first --port 8080 --print systemd

        finepoint deploy train-2026-11-24-11-24-05-458 --entry-point inference.py --source-dir code/

        finepoint deploy first --engine sagemaker --instances 2 --max-instances 6 --scale-at 300 --update rolling
    """
    from finepoint.cli.cloud import refuse_cloud_flags, refuse_local_flags
    from finepoint.cli.output import plain, print_json, say, show
    from finepoint.errors import ConfigurationError
    from finepoint.runs.deploying import captures_dir, deploy
    from finepoint.serving.canary import CanaryPlan, parse_share
    from finepoint.serving.deployment import Access

    share = parse_share(capture, "capture") if capture is not None else None
    if capture_images and share is None:
        raise ConfigurationError("--capture-images goes with --capture; give it too, as --capture 100%")
    if engine == "sagemaker":
        from finepoint.cli.endpoints import deploy_in_cloud
        from finepoint.engines.sagemaker.hosting import Hosting

        if canary is not None or capture_images:
            raise ConfigurationError(
                "--canary and --capture-images are for this machine; in AWS give --update canary, and --capture keeps "
                "requests and answers"
            )
        refuse_local_flags(
            {
                "--host": host is not None,
                "--port": port != 0,
                "--token-file": token_file is not None,
                "--no-auth": no_auth,
                "--tls-certificate": tls_certificate is not None,
                "--tls-key": tls_key is not None,
                "--allow-code": allow_code,
                "--runtime": runtime != "auto",
                "--start-seconds": start_seconds != 60.0,
                "--print": printed is not None,
            }
        )
        hosting = Hosting(mode, instances, max_instances, scale_at, max(1, round(100 * share)) if share else 0, update)
        deploy_in_cloud(model, name, hosting, cloud, max_price, runs_dir, json, entry_point, source_dir)
        return
    refuse_cloud_flags(
        {
            "--cloud": bool(cloud),
            "--mode": mode != "realtime",
            "--instances": instances != 1,
            "--max-instances": max_instances != 0,
            "--scale-at": scale_at != 0,
            "--update": update != "all-at-once",
            "--max-price": max_price is not None,
        }
    )
    access = Access(token_file, no_auth, tls_certificate, tls_key, allow_code, runtime)
    if printed is not None:
        from finepoint.runs.deploying import unit_of

        if canary is not None:
            raise ConfigurationError("--canary is for a running endpoint, and --print deploys nothing; leave one out")
        text = unit_of(
            printed,
            model,
            name=name,
            host=host or "127.0.0.1",
            port=port,
            start_seconds=start_seconds,
            access=access,
            capture=share,
            capture_images=capture_images,
            directory=runs_dir,
            entry_point=entry_point,
            source_dir=source_dir,
        )
        sys.stdout.write(text)
        return
    endpoint = deploy(
        model,
        name=name,
        host=host,
        port=port,
        start_seconds=start_seconds,
        access=access,
        capture=share,
        capture_images=capture_images,
        directory=runs_dir,
        entry_point=entry_point,
        source_dir=source_dir,
        canary=CanaryPlan(parse_share(canary)) if canary else None,
        say=say,
    )
    if json:
        print_json({"name": endpoint.name, "url": endpoint.url, "model_version": endpoint.model_version})
        return
    show(
        f"Endpoint [bold]{plain(endpoint.name)}[/] is healthy at {endpoint.url}",
        f"  finepoint query {plain(endpoint.name)} IMAGE.jpg",
        f"  {plain(_curl(endpoint))}",
        f"  a page to try it: {endpoint.url}/",
        f"  finepoint undeploy {plain(endpoint.name)}",
    )
    if capture is not None:
        show(f"Captured requests lie in {plain(captures_dir() / endpoint.name)}")


def _curl(endpoint: Endpoint) -> str:
    """Return the line with which curl asks an endpoint of this machine."""
    from finepoint.serving import registry

    record = registry.find(endpoint.name)
    settings = record.settings if record is not None else {}  # it may just have been removed
    trust = f"--cacert {shlex.quote(settings['tls-certificate'])} " if "tls-certificate" in settings else ""
    shown = '-H "Authorization: Bearer $FINEPOINT_TOKEN" ' if "token-file" in settings else ""
    return f"curl {trust}{shown}--data-binary @IMAGE.jpg -H 'Content-Type: image/jpeg' {endpoint.url}/invocations"
