"""`finepoint tune`: search hyperparameters, of finepoint's trainer or of a script of the user's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from finepoint.cli.arguments import DATA, FEATURES, HYPERPARAMETERS, TUNING, Json, RunName, RunsDir, with_flags
from finepoint.cli.cloud import CloudSetting, Engine, MaxPrice
from finepoint.cli.scripts import (
    ChannelPath,
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
    option,
)


@with_flags(DATA, FEATURES, HYPERPARAMETERS, TUNING)
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
    minimize: Annotated[
        str | None, option("--minimize", text="Metric that is to be small, of those defined.", metavar="NAME")
    ] = None,
    maximize: Annotated[
        str | None, option("--maximize", text="Metric that is to be large, of those defined.", metavar="NAME")
    ] = None,
    env: Variable = None,
    instance_count: InstanceCount = 1,
    distribution: Distribution = "",
    max_run: MaxRun = None,
    offline: Offline = False,
    debug: Debug = None,
    profile: Profile = None,
    stop_on: StopOn = None,
    detach: Detach = False,
    tuner: Annotated[
        Literal["study", "amt"],
        option("--tuner", text="In AWS: one job for the whole study, or SageMaker's own tuning, a job for each trial."),
    ] = "study",
    engine: Engine = "local",
    cloud: CloudSetting = None,
    max_price: MaxPrice = None,
    runs_dir: RunsDir = None,
    json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Search hyperparameters for the lowest validation loss; the test part stays closed.

    With a script, each trial is a job of its own, and its metric is read from what it prints.

    Examples:

        finepoint tune photos/ --run first --max-jobs 40

        finepoint tune photos/ --range lr=0.001:0.1:log --range batch_size=64,128 --range epochs=2:4

        finepoint train photos/ --run first        (trains the best trial)

        finepoint tune --entry-point train.py --channel train=photos/train --minimize loss
        --metric-definition 'loss=valid loss: ([0-9.]+)' --range lr=0.001:0.1:log --max-jobs 4 --max-parallel-jobs 2
    """
    from finepoint.cli.cloud import engine_settings
    from finepoint.errors import ConfigurationError

    if (path is None) == (entry_point is None):
        raise ConfigurationError("give either a folder of images, or --entry-point SCRIPT")
    if path is not None:
        if debug or stop_on:
            raise ConfigurationError("--debug and --stop-on are for the trials of a script (--entry-point)")
        if tuner == "amt":
            raise ConfigurationError("--tuner amt tunes scripts; finepoint's own study is one job, and far cheaper")
        settings |= engine_settings(engine, cloud, max_price) | {"profile": profile is not False}
        _tune(path, run, runs_dir, json, settings, engine)
        return
    if (minimize is None) == (maximize is None):
        raise ConfigurationError("give the metric that decides: --minimize NAME or --maximize NAME")
    if settings["hyperparameters"]:
        named = ", ".join(settings["hyperparameters"])
        raise ConfigurationError(f"{named}: this is for finepoint's trainer; give a script --hp KEY=VALUE")
    from finepoint.cli.scripts import script_spec
    from finepoint.engines.jobs import job_name
    from finepoint.runs.folder import runs_dir as default_dir

    assert entry_point is not None
    name = job_name(Path(entry_point).name, run)
    trial = script_spec(
        name,
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
        checkpoint_dir=None,
        offline=offline,
        debug=debug,
        stop_on=stop_on,
        profile=bool(profile),
    )
    if engine == "sagemaker":
        from finepoint.cli.cloud import tune_script_in_cloud

        if tuner != "amt":
            raise ConfigurationError("a script's trials are jobs of their own in AWS; give --tuner amt")
        folder = default_dir(runs_dir) / name
        tune_script_in_cloud(trial, folder, minimize, maximize, settings, cloud, max_price, detach, json)
        return
    goal = ("minimize", minimize) if minimize is not None else ("maximize", maximize)
    _tune_script(name, trial, goal, runs_dir, detach, json, settings)


def _tune(path: str, run: str | None, runs_dir: Path | None, json: bool, settings: dict[str, Any], engine: str) -> None:
    from finepoint.cli.cloud import tell_spent
    from finepoint.cli.output import print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.runs.workflow import tune
    from finepoint.tuning.state import StudyState
    from finepoint.tuning.table import trial_table

    with LiveListener() as listener:
        finished = tune(path, name=run, directory=runs_dir, listener=listener, command=sys.argv, **settings)
    tell_spent(engine, finished.folder.path)
    tuning = finished.summary["tuning"]
    if json:
        print_json(tuning)
        return
    show(trial_table(StudyState.from_json(tuning)))
    _show_importance(tuning)
    say(f"Train the best: finepoint train {path} --run {finished.name}")


def _tune_script(
    name: str,
    trial: Any,
    goal: tuple[Any, Any],
    runs_dir: Path | None,
    detach: bool,
    json: bool,
    settings: dict[str, Any],
) -> None:
    from finepoint.cli.output import plain, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.cli.scripts import job_row
    from finepoint.engines.jobs import find_job, start, state_of, stopping_on_request
    from finepoint.engines.local import Watcher, run_job
    from finepoint.engines.trials import OUTPUT, study_job
    from finepoint.files import read_json
    from finepoint.runs.folder import runs_dir as default_dir
    from finepoint.tuning.parameters import space_from_json
    from finepoint.tuning.state import StudyState
    from finepoint.tuning.study import DATABASE, StudySpec
    from finepoint.tuning.table import trial_table

    directory = default_dir(runs_dir)
    given = settings["space"]
    space = space_from_json({key: value for key, value in given.items() if isinstance(value, dict | list | str)})
    space |= {key: value for key, value in given.items() if key not in space}
    study = StudySpec(
        space=space,
        strategy=settings["strategy"],
        objective=goal[1],
        goal=goal[0],
        max_jobs=settings["max_jobs"],
        max_parallel_jobs=settings["max_parallel_jobs"],
        early_stopping=settings["early_stopping"],
        seed=settings["seed"],
        warm_start=tuple(
            (find_job(run, directory).path / "checkpoints" / DATABASE).resolve() for run in settings["warm_start"]
        ),
    )
    spec, folder = study_job(name, study, trial), directory / name
    if detach:
        row = job_row(state_of(start(folder, spec)), folder)
        if json:
            print_json(row)
        else:
            show(f"Study [bold]{plain(name)}[/] is running; `finepoint logs -f {plain(name)}` shows its trials")
        return
    say(f"Study {name} in {folder}")
    with LiveListener() as listener:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "study":
                listener.study(StudyState.from_json(event["state"]))
            elif event["event"] == "note":
                listener.note(f"note: {event['text']}")

        with stopping_on_request(Watcher(on_event=on_event, say=say)) as watcher:
            result = run_job(folder, spec, watcher)
    if result.status != "Completed":
        say(f"Study {name}: {result.status}. {result.failure}; the same command with --run {name} goes on with it")
        raise typer.Exit(1)
    record = read_json(folder / OUTPUT)
    if json:
        print_json({"job": name, "path": str(folder), **record})
        return
    show(trial_table(StudyState.from_json(record["tuning"])))
    _show_importance(record["tuning"])
    best = folder / "trials" / record["best_job"]
    show(f"Best: {plain(best)}")
    if (best / "output" / "model.tar.gz").is_file():
        show(f"Its model: {plain(best / 'output' / 'model.tar.gz')}")
    say(f"Train it again: finepoint train --entry-point {trial.entry_point} ... --best-of {name}")


def _show_importance(tuning: dict[str, Any]) -> None:
    from finepoint.cli.output import show

    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in tuning["importance"].items())
    if shares:
        show(f"What mattered: {shares}")
