"""`finepoint train`: train one model, with finepoint's trainer or a script of the user's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from finepoint.cli.arguments import DATA, FEATURES, HYPERPARAMETERS, Json, RunName, RunsDir, with_flags
from finepoint.cli.cloud import CloudSetting, Engine, MaxPrice
from finepoint.cli.scripts import (
    BestOf,
    ChannelPath,
    CheckpointDir,
    Debug,
    Detach,
    Distribution,
    EntryPoint,
    Hyperparameter,
    InputMode,
    InstanceCount,
    MaxRun,
    MetricText,
    Offline,
    Profile,
    SourceDir,
    StopOn,
    Variable,
)

# As shells and other commands end at Ctrl-C.
_INTERRUPTED = 130


@with_flags(DATA, FEATURES, HYPERPARAMETERS)
def command(
    path: Annotated[
        str | None,
        typer.Argument(help="Folder of images, manifest, archive or address; not with --entry-point.", metavar="PATH"),
    ] = None,
    run: RunName = None,
    entry_point: EntryPoint = None,
    source_dir: SourceDir = None,
    hp: Hyperparameter = None,
    channel: ChannelPath = None,
    input_mode: InputMode = "File",
    metric_definition: MetricText = None,
    env: Variable = None,
    instance_count: InstanceCount = 1,
    distribution: Distribution = "",
    max_run: MaxRun = None,
    checkpoint_dir: CheckpointDir = None,
    offline: Offline = False,
    best_of: BestOf = None,
    debug: Debug = None,
    profile: Profile = None,
    try_: Annotated[
        bool,
        typer.Option("--try", help="Then measure what changes would give: threads, batch, runtime, cached features."),
    ] = False,
    stop_on: StopOn = None,
    detach: Detach = False,
    engine: Engine = "local",
    cloud: CloudSetting = None,
    max_price: MaxPrice = None,
    runs_dir: RunsDir = None,
    json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Train one model: the best of a tuned run (`--run`), with the hyperparameters that you give, or by your script.

    The test part stays closed until `finepoint evaluate`. A script runs unchanged by SageMaker's script mode.

    Examples:

        finepoint train photos/ --run first

        finepoint train photos/ --lr 0.01 --epochs 4 --head mlp --dropout 0.3

        finepoint train --entry-point train.py --source-dir code/ --hp lr=0.01 --channel train=photos/train
    """
    from finepoint.cli.cloud import engine_settings
    from finepoint.errors import ConfigurationError

    if (path is None) == (entry_point is None):
        raise ConfigurationError("give either a folder of images, or --entry-point SCRIPT")
    if path is not None:
        settings |= engine_settings(engine, cloud, max_price)
        settings |= {"debug": debug is not False, "profile": profile is not False}
        _train(path, run, runs_dir, json, try_, settings, engine)
        return
    if try_:
        raise ConfigurationError("--try is for finepoint's trainer; after a script's job, `finepoint profile try JOB`")
    if settings["hyperparameters"]:
        named = ", ".join(settings["hyperparameters"])
        raise ConfigurationError(f"{named}: this is for finepoint's trainer; give a script --hp KEY=VALUE")
    from finepoint.cli.scripts import script_spec
    from finepoint.engines.jobs import find_job, job_name
    from finepoint.runs.folder import runs_dir as default_dir

    assert entry_point is not None
    spec = script_spec(
        job_name(Path(entry_point).name, run),
        entry_point,
        source_dir,
        hp=hp,
        channel=channel,
        input_mode=input_mode,
        metric_definition=metric_definition,
        env=env,
        instance_count=instance_count,
        distribution=distribution,
        max_run=max_run,
        checkpoint_dir=checkpoint_dir,
        offline=offline,
        best_of=find_job(best_of, default_dir(runs_dir)).path if best_of else None,
        debug=debug,
        stop_on=stop_on,
        profile=bool(profile),
    )
    if engine == "sagemaker":
        from finepoint.cli.cloud import run_script_in_cloud

        run_script_in_cloud(spec, default_dir(runs_dir) / spec.name, cloud, max_price, detach, json)
        return
    _run_script(spec, runs_dir, detach, json)


def _train(
    path: str, run: str | None, runs_dir: Path | None, json: bool, try_: bool, settings: dict[str, Any], engine: str
) -> None:
    from finepoint.cli.cloud import tell_spent
    from finepoint.cli.output import percent, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.runs.workflow import train

    with LiveListener() as listener:
        finished = train(path, name=run, directory=runs_dir, listener=listener, command=sys.argv, **settings)
    tell_spent(engine, finished.folder.path)
    summary = finished.summary
    tried = None
    if try_:
        from finepoint.cli.profile import tried_table
        from finepoint.runs.trying import try_run

        tried = try_run(finished.folder)
    if json:
        print_json(summary if tried is None else {**summary, "tried": [row.to_json() for row in tried]})
        return
    training = summary["training"]
    best = training["epochs"][training["best_epoch"] - 1]
    show(
        f"Best epoch {best['epoch']}: validation loss {best['valid_loss']:.4f}, "
        f"accuracy {percent(best['valid_accuracy'])}",
        f"Model: {finished.model}",
        *([] if tried is None else [tried_table(tried)]),
    )
    say(f"Judge it on the test part: finepoint evaluate {finished.name}")


def _run_script(spec: Any, runs_dir: Path | None, detach: bool, json: bool) -> None:
    from finepoint.cli.output import plain, print_json, say, show
    from finepoint.cli.scripts import job_row, live_watcher, show_job
    from finepoint.engines.jobs import start, state_of, stopping_on_request
    from finepoint.engines.local import INTERRUPTED, execute, how_it_ended
    from finepoint.errors import ConfigurationError, JobError
    from finepoint.runs.folder import RECORD
    from finepoint.runs.folder import runs_dir as default_dir

    folder = default_dir(runs_dir) / spec.name
    if (folder / RECORD).is_file():
        raise ConfigurationError(f"{spec.name} is a run of finepoint's trainer; give the script's job another --run")
    if detach:
        job = start(folder, spec)
        if json:
            print_json(job_row(state_of(job), folder))
        else:
            show(f"Job [bold]{plain(spec.name)}[/] is running; `finepoint logs -f {plain(spec.name)}` shows its log")
        return
    say(f"Job {spec.name} in {folder}")
    with stopping_on_request(live_watcher(quiet=False, hosts=spec.resources.instance_count)) as watcher:
        result = execute(folder, spec, watcher)
    show_job(result, json)
    if result.status == "Failed":
        raise JobError(f"job {spec.name} failed ({how_it_ended(result.exit_code)}); its log is {folder / 'logs.txt'}")
    if result.status != "Completed":
        raise typer.Exit(_INTERRUPTED if result.failure == INTERRUPTED else 1)
