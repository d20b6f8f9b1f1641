"""`finepoint train`: train one model."""

from __future__ import annotations

import sys
from typing import Any

from finepoint.cli.arguments import DATA, FEATURES, HYPERPARAMETERS, DataPath, Json, RunName, RunsDir, with_flags


@with_flags(DATA, FEATURES, HYPERPARAMETERS)
def command(
    path: DataPath, run: RunName = None, runs_dir: RunsDir = None, json: Json = False, *, settings: dict[str, Any]
) -> None:
    """Train one model: the best of a tuned run (`--run`), or with the hyperparameters that you give.

    The test part stays closed until `finepoint evaluate`.

    Examples:

        finepoint train photos/ --run first

        finepoint train photos/ --lr 0.01 --epochs 4 --head mlp --dropout 0.3
    """
    from finepoint.cli.output import percent, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.runs.workflow import train

    with LiveListener() as listener:
        finished = train(path, name=run, directory=runs_dir, listener=listener, command=sys.argv, **settings)
    summary = finished.summary
    if json:
        print_json(summary)
        return
    training = summary["training"]
    best = training["epochs"][training["best_epoch"] - 1]
    show(
        f"Best epoch {best['epoch']}: validation loss {best['valid_loss']:.4f}, "
        f"accuracy {percent(best['valid_accuracy'])}",
        f"Model: {finished.model}",
    )
    say(f"Judge it on the test part: finepoint evaluate {finished.name}")
