"""`finepoint deploy`: put a model behind an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from finepoint.cli.arguments import Json, ModelArgument, RunsDir
from finepoint.cli.cloud import CloudSetting, Engine, MaxPrice


def command(
    model: ModelArgument,
    name: Annotated[str | None, typer.Option("--name", help="Name of the endpoint.", show_default="the run's")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to bind to.")] = "127.0.0.1",
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
    entry_point: Annotated[
        str | None,
        typer.Option("--entry-point", help="Your script with model_fn, for a model that a script of yours trained."),
    ] = None,
    source_dir: Annotated[
        Path | None, typer.Option("--source-dir", help="Folder that holds it; without it the script comes alone.")
    ] = None,
    capture: Annotated[
        str | None, typer.Option("--capture", help="Keep this share of the answers, such as 10%.", show_default="none")
    ] = None,
    capture_images: Annotated[
        bool, typer.Option("--capture-images", help="With --capture: keep the images too.")
    ] = False,
    mode: Annotated[
        Literal["realtime", "serverless", "async"], typer.Option("--mode", help="In AWS: the kind of endpoint.")
    ] = "realtime",
    engine: Engine = "local",
    cloud: CloudSetting = None,
    max_price: MaxPrice = None,
    runs_dir: RunsDir = None,
    json: Json = False,
) -> None:
    """Put a model behind an endpoint on this machine; it goes on when this command has ended.

    Over a running endpoint of the same name the new model is loaded beside the old one and takes over without failing
    a request.

    Examples:

        finepoint deploy first

        finepoint deploy model.tar.gz --name clothes --port 8080

        finepoint deploy first --capture 10% --capture-images

        finepoint deploy train-2026-11-24-11-24-05-458 --entry-point inference.py --source-dir code/
    """
    from finepoint.cli.output import plain, print_json, show
    from finepoint.runs.deploying import captures_dir, deploy
    from finepoint.serving.deployment import Access

    if engine == "sagemaker":
        from finepoint.cli.endpoints import deploy_in_cloud
        from finepoint.errors import ConfigurationError

        if entry_point is not None:
            raise ConfigurationError(
                "--entry-point is for this machine; in AWS the script goes into model.tar.gz as code/inference.py"
            )
        deploy_in_cloud(model, name, mode, cloud, max_price, runs_dir, json)
        return
    access = Access(token_file, no_auth, tls_certificate, tls_key, allow_code)
    endpoint = deploy(
        model,
        name=name,
        host=host,
        port=port,
        access=access,
        capture=_share(capture) if capture is not None else None,
        capture_images=capture_images,
        directory=runs_dir,
        entry_point=entry_point,
        source_dir=source_dir,
    )
    if json:
        print_json({"name": endpoint.name, "url": endpoint.url, "model_version": endpoint.model_version})
        return
    show(
        f"Endpoint [bold]{plain(endpoint.name)}[/] is healthy at {endpoint.url}",
        f"  finepoint query {plain(endpoint.name)} IMAGE.jpg",
        f"  curl --data-binary @IMAGE.jpg -H 'Content-Type: image/jpeg' {endpoint.url}/invocations",
        f"  a page to try it: {endpoint.url}/",
        f"  finepoint undeploy {plain(endpoint.name)}",
    )
    if capture is not None:
        show(f"Captured requests lie in {plain(captures_dir() / endpoint.name)}")


def _share(text: str) -> float:
    """Return a share as a number.

    >>> _share("10%"), _share("0.5")
    (0.1, 0.5)
    """
    from finepoint.errors import ConfigurationError

    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ConfigurationError(f"--capture is {text!r}; it must be a share such as 10%") from None
