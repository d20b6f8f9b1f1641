"""`finepoint query`: ask an endpoint about images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finepoint.cli.arguments import Json
from finepoint.cli.cloud import CloudSetting, Engine
from finepoint.cli.images import AnswersFile, HeatMapFile, files_in, write_heat_map

if TYPE_CHECKING:
    from finepoint.serving.client import Endpoint


def command(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint, or its address.", metavar="ENDPOINT")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Images, or folders of images.", metavar="IMAGE|FOLDER...")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Folder of images; the same as naming it among the images.")
    ] = None,
    out: AnswersFile = None,
    top: Annotated[int, typer.Option("--top", help="How many classes to show.", min=1)] = 3,
    explain: HeatMapFile = None,
    engine: Engine = "local",
    cloud: CloudSetting = None,
    json: Json = False,
) -> None:
    """Ask an endpoint about images, several at a time.

    Images that it refuses are named, and the exit code is then 2; all others are answered. What a script's own handler
    answers is printed as it is. An asynchronous endpoint in AWS is asked by way of S3, and its answers are waited for.

    Examples:

        finepoint query first photo.jpg

        finepoint query first photo.jpg --explain why.png

        finepoint query first --dir incoming/ --out answers.csv

        finepoint query http://127.0.0.1:8080 a.jpg b.png --top 1 --json
    """
    from dataclasses import asdict
    from json import dumps as to_json

    from finepoint.cli.output import complain, percent, plain, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.cli.tables import write_answers
    from finepoint.errors import AnswerError, ConfigurationError, storage_errors
    from finepoint.models.classifier import Prediction
    from finepoint.serving.deployment import find_endpoint

    if engine == "sagemaker":
        if explain is not None:
            raise ConfigurationError("--explain is for endpoints on this machine")
        from finepoint.cli.cloud import account
        from finepoint.engines.sagemaker.asynchronous import is_asynchronous
        from finepoint.engines.sagemaker.predictor import CloudPredictor

        settings, there = account(cloud)
        by_way_of = settings if is_asynchronous(there, endpoint) else None
        found: Endpoint = CloudPredictor(endpoint, "", cloud=there, by_way_of=by_way_of)
    else:
        found = find_endpoint(endpoint)
    given = [*(images or ()), *([directory] if directory else ())]
    if not given:
        raise ConfigurationError("name images, or a folder of them with --dir")
    if explain is not None:
        _explain(found, given, explain)
    folders = any(path.is_dir() for path in given)
    files = files_in(given) if folders else given
    with LiveListener() as listener:
        answers = found.predict_many(
            files,
            top=None if out else top,
            progress=(lambda done, total: listener.progress("predict", done, total)) if len(files) > 50 else None,
        )
    asked = list(zip(files, answers, strict=True))
    good = [(file, answer) for file, answer in asked if isinstance(answer, Prediction)]
    own = [] if out else [(file, answer.content) for file, answer in asked if isinstance(answer, AnswerError)]
    if out is not None:
        classes = sorted({name for _, answer in good for name in answer.probabilities})
        with storage_errors():
            write_answers(out, classes, good)
        say(f"{len(good):,} {'row' if len(good) == 1 else 'rows'} written to {out}")
    if json:
        print_json([*(asdict(answer) for _, answer in good), *({"path": str(f), "answer": a} for f, a in own)])
    elif out is None:
        for _, answer in good:
            shares = ", ".join(
                f"{plain(name)} {percent(share)}" for name, share in list(answer.probabilities.items())[1:]
            )
            show(
                f"{plain(answer.path)}  [bold]{plain(answer.label)}[/] {percent(answer.probability)}"
                + (f"  [dim]{shares}[/]" if shares else "")
                + ("  [yellow]unknown: perhaps of none of the classes[/]" if answer.unknown else "")
            )
        for file, content in own:
            show(f"{plain(file)}  {plain(content if isinstance(content, str) else to_json(content))}")
    for file, refused in asked:
        if not isinstance(refused, Prediction) and (out or not isinstance(refused, AnswerError)):
            complain(f"{file}: {refused}" if str(file) not in str(refused) else str(refused))
    if len(good) + len(own) < len(files):
        raise typer.Exit(2)


def _explain(endpoint: Endpoint, images: list[Path], target: Path) -> None:
    from finepoint.errors import ConfigurationError

    if len(images) != 1 or images[0].is_dir():
        raise ConfigurationError("--explain takes one image")
    label, share, png = endpoint.explain(images[0])
    write_heat_map(target, png, label, share)
