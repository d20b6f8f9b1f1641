"""`finepoint demo`: the whole way on a small real data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from finepoint.cli.arguments import Json


def command(
    folder: Annotated[Path, typer.Option("--dir", help="Folder for the data set and its run.")] = Path(
        "finepoint-demo"
    ),
    max_jobs: Annotated[int, typer.Option("--max-jobs", help="Trials in all.", min=1)] = 20,
    json: Json = False,
) -> None:
    """Make a data set of 1,797 handwritten digits, run everything on it, deploy, query, undeploy.

    Examples:

        finepoint demo

        finepoint demo --dir /tmp/demo --max-jobs 5
    """
    from dataclasses import asdict

    from finepoint.cli.output import percent, plain, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.cli.verdicts import verdict_panel
    from finepoint.data.digits import make_digits
    from finepoint.runs.deploying import deploy
    from finepoint.runs.workflow import run

    say("Making the data set: 1,797 handwritten digits in ten class folders")
    data = make_digits(folder / "digits")
    with LiveListener() as listener:
        finished = run(data, directory=folder / "runs", listener=listener, command=sys.argv, max_jobs=max_jobs)
    say("Deploying")
    endpoint = deploy(finished)
    try:
        held_out = _held_out(data)
        answers = [endpoint.predict(image) for image in held_out]
    finally:
        endpoint.delete()
    summary = finished.summary
    if json:
        print_json({"summary": summary, "answers": [asdict(answer) for answer in answers]})
        return
    show(verdict_panel(summary), f"Asked {endpoint.url}/invocations about three images of the test part:")
    for image, answer in zip(held_out, answers, strict=True):
        right = "[green]right[/]" if answer.label == image.parent.name else f"[red]it is {image.parent.name}[/]"
        show(f"  {plain(image.name)}  [bold]{plain(answer.label)}[/] {percent(answer.probability)}  {right}")
    show(f"The endpoint is stopped again. The report: [bold]{plain(finished.report.resolve())}[/]")


def _held_out(data: Path) -> list[Path]:
    """Return one test image each of three digits."""
    return [sorted((data / "test" / digit).glob("*.png"))[0] for digit in ("3", "5", "8")]
