"""`finepoint quantise`: a run's model in int8, where that is worth it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from finepoint.cli.arguments import Json, RunsDir


def command(
    run: Annotated[str, typer.Argument(help="A run's name or folder.")],
    out: Annotated[Path, typer.Option("--out", help="The package to write.")],
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Of accuracy on validation images that is allowed.")
    ] = 0.01,
    runs_dir: RunsDir = None,
    json: Json = False,
) -> None:
    """Compute a run's model in 8 bits, and keep that only where it is faster here and as good on validation images.

    Half of the validation images set the ranges of numbers, the other half judges. Needs `pip install finepoint[int8]`.

    Examples:

        finepoint quantise first --out first-int8.tar.gz

        finepoint deploy first-int8.tar.gz --name first
    """
    from finepoint.cli.output import plain, print_json, show
    from finepoint.runs.quantising import quantise

    found = quantise(run, out, max_drop=max_drop, directory=runs_dir)
    if json:
        print_json({**asdict(found), "kept": not found.reason_against, "reason_against": found.reason_against})
        return
    show(
        f"Accuracy on {found.images:,} validation images: {found.accuracy_int8:.3f} in int8, "
        f"{found.accuracy_before:.3f} in {found.precision_before}; "
        f"{found.speedup:.2f} times as many images a second here"
    )
    if found.unknown_kept_int8 is not None:
        show(
            f"Of them not called unknown: {found.unknown_kept_int8:.3f} in int8, {found.unknown_kept_before:.3f} before"
        )
    if found.reason_against:
        show(f"[bold]Not kept[/]: {plain(found.reason_against)}")
    else:
        show(f"[bold]Kept[/] as {plain(out)}: finepoint deploy {plain(out)}")
