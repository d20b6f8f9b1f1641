"""`finepoint undeploy`: stop endpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from finepoint.cli.arguments import Json
from finepoint.cli.cloud import CloudSetting, Engine


def command(
    endpoint: Annotated[str | None, typer.Argument(help="Name of an endpoint.", metavar="[ENDPOINT]")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Stop every endpoint on this machine.")] = False,
    engine: Engine = "local",
    cloud: CloudSetting = None,
    json: Json = False,
) -> None:
    """Stop an endpoint, after it has finished what it has begun, and forget it.

    Examples:

        finepoint undeploy first

        finepoint undeploy --all
    """
    from finepoint.cli.output import plain, print_json, show
    from finepoint.errors import ConfigurationError
    from finepoint.serving.deployment import undeploy, undeploy_all

    if (endpoint is None) == (not all_):
        raise ConfigurationError("give the name of one endpoint, or --all")
    if engine == "sagemaker":
        from finepoint.cli.endpoints import undeploy_in_cloud

        names = undeploy_in_cloud(endpoint, cloud)
    elif endpoint is None:
        names = undeploy_all()
    else:
        undeploy(endpoint)
        names = [endpoint]
    if json:
        print_json({"stopped": names})
    else:
        show(f"Stopped {', '.join(map(plain, names))}" if names else "No endpoints on this machine.")
