"""`finepoint evaluate`: judge a model on images that it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finepoint.cli.arguments import Json, ModelArgument, RunsDir


def command(
    model: ModelArgument,
    path: Annotated[
        Path | None, typer.Argument(help="Images to judge it on; by default the run's own test part.", metavar="[PATH]")
    ] = None,
    runs_dir: RunsDir = None,
    json: Json = False,
) -> None:
    """Judge a model on images that it never saw, and say how sure that is.

    Each reading of a run's own test part is counted, and the report shows the count.

    Examples:

        finepoint evaluate first

        finepoint evaluate model.tar.gz other-photos/ --json
    """
    from finepoint.cli.output import percent, plain, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.runs.workflow import evaluate

    with LiveListener() as listener:
        test = evaluate(model, path, directory=runs_dir, listener=listener)
    if json:
        print_json(test)
        return
    from rich.table import Table

    table = Table("class", "images", "precision", "recall", "F1", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in test["per_class"]:
        values = (percent(row[key]) for key in ("precision", "recall", "f1"))
        table.add_row(plain(row["name"]), f"{row['images']:,}", *values)
    show(
        table,
        f"[bold]Accuracy {percent(test['accuracy'])}[/] "
        f"(95 % interval {percent(test['accuracy_low'])} to {percent(test['accuracy_high'])}, "
        f"{test['images']:,} images)",
        f"Balanced accuracy {percent(test['balanced_accuracy'])}, macro F1 {percent(test['macro_f1'])}, "
        f"top 5 {percent(test['top_5_accuracy'])}, log loss {test['log_loss']:.3f}, "
        f"calibration error {percent(test['ece_after'])}, commonest class {percent(test['majority_baseline'])}",
    )
    if path is None:
        times = "once" if test["times_read"] == 1 else f"{test['times_read']} times"
        say(f"The test part of this run has now been read {times}.")
    for image in test.get("skipped", []):
        say(f"not used: {image['path']}: {image['reason']}")
