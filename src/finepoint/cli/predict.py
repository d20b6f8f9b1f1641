"""`finepoint predict`: classify images without a server."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finepoint.cli.arguments import Json, ModelArgument, RunsDir
from finepoint.cli.cloud import CloudSetting, Engine, MaxPrice

if TYPE_CHECKING:
    from finepoint.models.classifier import Prediction


def command(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", metavar="IMAGE|FOLDER...")],
    out: Annotated[Path | None, typer.Option("--out", help="Write a CSV file with a row for each image.")] = None,
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

        finepoint predict model.tar.gz incoming/ --out answers.csv

        finepoint predict first incoming/ --out answers/ --engine sagemaker
    """
    from dataclasses import asdict

    from finepoint.cli.output import complain, percent, plain, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.errors import storage_errors
    from finepoint.files import write_bytes
    from finepoint.runs.workflow import load_model, predict_files

    if engine == "sagemaker":
        _transform(model, images, out, cloud, max_price, runs_dir)
        return
    files = _files(images)
    classifier = load_model(model, runs_dir, throughput=True)
    if classifier.random_weights:
        say("warning: the backbone's weights are random; these answers mean little")
    with LiveListener() as listener:
        answers = list(predict_files(classifier, files, listener if len(files) > 50 else None))
    good = [(file, answer) for file, answer in answers if not isinstance(answer, str)]
    bad = [(file, answer) for file, answer in answers if isinstance(answer, str)]
    if out is not None:
        with storage_errors():
            write_bytes(out, _table(classifier.classes, good))
        say(f"{len(good):,} {'row' if len(good) == 1 else 'rows'} written to {out}")
    if json:
        errors = [{"path": str(file), "reason": reason} for file, reason in bad]
        print_json({"predictions": [asdict(answer) for _, answer in good], "errors": errors})
    elif out is None:
        for file, answer in good:
            others = list(answer.probabilities.items())[1:3]
            rest = ", ".join(f"{plain(name)} {percent(share)}" for name, share in others)
            show(f"{plain(file)}  [bold]{plain(answer.label)}[/] {percent(answer.probability)}  [dim]{rest}[/]")
    for file, reason in bad:
        complain(f"{file}: {reason}")
    if bad:
        raise typer.Exit(2)


def _table(classes: Sequence[str], answers: Sequence[tuple[Path, Prediction]]) -> bytes:
    """Return a CSV file with a row for each answer; a path that a spreadsheet would compute begins with `./`."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "label", "probability", *classes])
    for file, answer in answers:
        path = f"./{file}" if str(file).startswith(("=", "+", "-", "@", "\t")) else str(file)
        each = (f"{answer.probabilities[name]:.6f}" for name in classes)
        writer.writerow([path, answer.label, f"{answer.probability:.6f}", *each])
    return text.getvalue().encode("utf-8", "surrogateescape")


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


def _files(given: list[Path]) -> list[Path]:
    from finepoint.data.finding import images_below
    from finepoint.errors import DataError
    from finepoint.files import exists

    found: list[Path] = []
    for path in given:
        if not exists(path):
            raise DataError(f"{path}: there is no such file or folder")
        if not path.is_dir():
            found.append(path)
            continue
        below = images_below(path)
        if not below:
            raise DataError(f"{path} holds no images")
        found += below
    return found
