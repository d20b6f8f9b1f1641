"""`finepoint run`: the whole way, in one go."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from finepoint.cli.arguments import (
    DATA,
    FEATURES,
    HYPERPARAMETERS,
    TUNING,
    DataPath,
    Debug,
    Json,
    Profile,
    RunName,
    RunsDir,
    Thumbnails,
    with_flags,
)
from finepoint.cli.cloud import CloudSetting, Engine, MaxPrice


@with_flags(DATA, FEATURES, HYPERPARAMETERS, TUNING)
def command(
    path: DataPath,
    run: RunName = None,
    deploy: Annotated[bool, typer.Option("--deploy", help="Put the model behind an endpoint at the end.")] = False,
    engine: Engine = "local",
    cloud: CloudSetting = None,
    max_price: MaxPrice = None,
    debug: Debug = True,
    profile: Profile = True,
    thumbnails: Thumbnails = 0,
    runs_dir: RunsDir = None,
    json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Check, split, tune, train the best, evaluate, package and report, in one go.

    Examples:

        finepoint run photos/

        finepoint run photos/ --run first --max-jobs 40 --deploy

        finepoint run photos/ --backbone efficientnet_lite0,efficientnet_lite1 --json > summary.json
    """
    from finepoint.cli.cloud import engine_settings, tell_spent
    from finepoint.cli.output import print_json, show
    from finepoint.cli.progress import LiveListener
    from finepoint.cli.verdicts import next_commands, verdict_panel
    from finepoint.runs.workflow import run as run_all

    settings |= engine_settings(engine, cloud, max_price)
    with LiveListener() as listener:
        finished = run_all(
            path,
            name=run,
            directory=runs_dir,
            listener=listener,
            command=sys.argv,
            debug=debug,
            profile=profile,
            thumbnails=thumbnails,
            **settings,
        )
    tell_spent(engine, finished.folder.path)
    summary = finished.summary
    endpoint = None
    if deploy:
        from finepoint.runs.deploying import deploy as deploy_run

        endpoint = deploy_run(finished)
    if json:
        print_json(
            summary if endpoint is None else {**summary, "endpoint": {"name": endpoint.name, "url": endpoint.url}}
        )
        return
    show(verdict_panel(summary), next_commands(finished, endpoint))
