"""`finepoint predict`: classify images without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finepoint.cli.arguments import Json, ModelArgument, RunsDir
from finepoint.cli.cloud import CloudSetting, Engine, MaxPrice
from finepoint.cli.images import AnswersFile, HeatMapFile, files_in, write_heat_map

if TYPE_CHECKING:
    from finepoint.models.classifier import Classifier


def command(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", metavar="IMAGE|FOLDER...")],
    out: AnswersFile = None,
    explain: HeatMapFile = None,
    engine: Engine = "local",
    cloud: CloudSetting = None,
    max_price: MaxPrice = None,
    runs_dir: RunsDir = None,
    json: Json = False,
) -> None:
    """Classify images without a server; in AWS a folder, by a batch transform job, with its answers put into --out.

    Files that are not images are named at the end, and the exit code is then 2; all others are classified.

    Examples:

        finepoint predict first photo.jpg

        finepoint predict first photo.jpg --explain why.png

        finepoint predict model.tar.gz incoming/ --out answers.csv

        finepoint predict first incoming/ --out answers/ --engine sagemaker
    """
    from dataclasses import asdict

    from finepoint.cli.output import complain, percent, plain, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.cli.tables import write_answers
    from finepoint.errors import storage_errors
    from finepoint.runs.workflow import load_model, predict_files

    if engine == "sagemaker":
        _transform(model, images, out, cloud, max_price, runs_dir)
        return
    files = files_in(images)
    classifier = load_model(model, runs_dir, throughput=True)
    if classifier.random_weights:
        say("warning: the backbone's weights are random; these answers mean little")
    if explain is not None:
        _explain(classifier, files, explain)
    with LiveListener() as listener:
        answers = list(predict_files(classifier, files, listener if len(files) > 50 else None))
    good = [(file, answer) for file, answer in answers if not isinstance(answer, str)]
    bad = [(file, answer) for file, answer in answers if isinstance(answer, str)]
    if out is not None:
        with storage_errors():
            write_answers(out, classifier.classes, good)
        say(f"{len(good):,} {'row' if len(good) == 1 else 'rows'} written to {out}")
    if json:
        errors = [{"path": str(file), "reason": reason} for file, reason in bad]
        print_json({"predictions": [asdict(answer) for _, answer in good], "errors": errors})
    elif out is None:
        for file, answer in good:
            others = list(answer.probabilities.items())[1:3]
            rest = ", ".join(f"{plain(name)} {percent(share)}" for name, share in others)
            doubt = "  [yellow]unknown: perhaps of none of the classes[/]" if answer.unknown else ""
            show(f"{plain(file)}  [bold]{plain(answer.label)}[/] {percent(answer.probability)}  [dim]{rest}[/]{doubt}")
    for file, reason in bad:
        complain(f"{file}: {reason}")
    if bad:
        raise typer.Exit(2)


def _explain(classifier: Classifier, files: Sequence[Path], target: Path) -> None:
    from finepoint.errors import ConfigurationError, DataError
    from finepoint.evaluation.explaining import explain_image

    if len(files) != 1:
        raise ConfigurationError("--explain takes one image")
    try:
        data = files[0].read_bytes()
    except OSError as error:
        raise DataError(f"{files[0]} cannot be read: {error.strerror}") from error
    found, png = explain_image(classifier, data)
    write_heat_map(target, png, found.label, found.share)


def _transform(
    model: str,
    images: list[Path],
    out: Path | None,
    cloud: list[str] | None,
    max_price: float | None,
    runs_dir: Path | None,
) -> None:
    from finepoint.cli.cloud import settings_of
    from finepoint.cli.output import plain, say, show
    from finepoint.engines.sagemaker.batch import transform
    from finepoint.engines.sagemaker.cloud import Cloud
    from finepoint.errors import ConfigurationError
    from finepoint.runs.workflow import model_path

    if len(images) != 1 or not images[0].is_dir() or out is None:
        raise ConfigurationError("a batch transform takes one folder of images, and --out FOLDER for its answers")
    settings = settings_of(cloud, max_price)
    count = transform(Cloud(settings.region), settings, model_path(model, runs_dir), images[0], out, say=say)
    show(f"{count:,} answers in {plain(out)}, each as IMAGE.out")
