"""`finepoint tune`: search hyperparameters."""

from __future__ import annotations

import sys
from typing import Any

from finepoint.cli.arguments import (
    DATA,
    FEATURES,
    HYPERPARAMETERS,
    TUNING,
    DataPath,
    Json,
    RunName,
    RunsDir,
    with_flags,
)


@with_flags(DATA, FEATURES, HYPERPARAMETERS, TUNING)
def command(
    path: DataPath, run: RunName = None, runs_dir: RunsDir = None, json: Json = False, *, settings: dict[str, Any]
) -> None:
    """Search hyperparameters for the lowest validation loss; the test part stays closed.

    Examples:

        finepoint tune photos/ --run first --max-jobs 40

        finepoint tune photos/ --range lr=0.001:0.1:log --range batch_size=64,128 --range epochs=2:4

        finepoint train photos/ --run first        (trains the best trial)
    """
    from finepoint.cli.output import print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.runs.workflow import tune
    from finepoint.tuning.state import StudyState
    from finepoint.tuning.table import trial_table

    with LiveListener() as listener:
        finished = tune(path, name=run, directory=runs_dir, listener=listener, command=sys.argv, **settings)
    tuning = finished.summary["tuning"]
    if json:
        print_json(tuning)
        return
    show(trial_table(StudyState.from_json(tuning)))
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in tuning["importance"].items())
    if shares:
        show(f"What mattered: {shares}")
    say(f"Train the best: finepoint train {path} --run {finished.name}")
