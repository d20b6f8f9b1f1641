"""`finepoint query`: ask an endpoint about images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finepoint.cli.arguments import Json
from finepoint.cli.cloud import CloudSetting, Engine


def command(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint, or its address.", metavar="ENDPOINT")],
    images: Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...")],
    top: Annotated[int, typer.Option("--top", help="How many classes to show.", min=1)] = 3,
    engine: Engine = "local",
    cloud: CloudSetting = None,
    json: Json = False,
) -> None:
    """Ask an endpoint about images.

    Images that it refuses are named, and the exit code is then 2; all others are answered.

    Examples:

        finepoint query first photo.jpg

        finepoint query http://127.0.0.1:8080 a.jpg b.png --top 1 --json
    """
    from dataclasses import asdict

    from finepoint.cli.output import complain, percent, plain, print_json, show
    from finepoint.errors import DataError, RequestError
    from finepoint.serving.client import Endpoint
    from finepoint.serving.deployment import find_endpoint

    if engine == "sagemaker":
        from finepoint.cli.cloud import account
        from finepoint.engines.sagemaker.predictor import CloudPredictor

        found: Endpoint = CloudPredictor(endpoint, "", cloud=account(cloud)[1])
    else:
        found = find_endpoint(endpoint)
    answers, refused = [], False
    for image in images:
        try:
            answers.append(found.predict(image, top=top))
        except DataError as error:
            complain(str(error))
            refused = True
        except RequestError as error:
            complain(f"{image}: {error}")
            refused = True
    if json:
        print_json([asdict(answer) for answer in answers])
    else:
        for answer in answers:
            shares = ", ".join(
                f"{plain(name)} {percent(share)}" for name, share in list(answer.probabilities.items())[1:]
            )
            show(
                f"{plain(answer.path)}  [bold]{plain(answer.label)}[/] {percent(answer.probability)}"
                + (f"  [dim]{shares}[/]" if shares else "")
            )
    if refused:
        raise typer.Exit(2)
