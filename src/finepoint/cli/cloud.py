"""Flags of the commands that can work in AWS; each command asks here for its engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from finepoint.engines.sagemaker.cloud import Cloud
    from finepoint.engines.sagemaker.settings import SageMakerSettings
    from finepoint.engines.sagemaker.training import SageMakerEngine
    from finepoint.engines.spec import JobSpec

_PANEL = "In AWS"
LOCAL, SAGEMAKER = "local", "sagemaker"

Engine = Annotated[
    Literal["local", "sagemaker"],
    typer.Option("--engine", help="Where jobs run: local, or sagemaker.", rich_help_panel=_PANEL),
]
CloudSetting = Annotated[
    list[str] | None,
    typer.Option(
        "--cloud",
        help="Setting of the SageMaker engine, over finepoint.toml.",
        metavar="KEY=VALUE",
        rich_help_panel=_PANEL,
    ),
]
MaxPrice = Annotated[
    float | None,
    typer.Option("--max-price", help="Refuse what may cost more US dollars.", metavar="USD", rich_help_panel=_PANEL),
]


def settings_of(cloud: list[str] | None, max_price: float | None = None) -> SageMakerSettings:
    """Return the SageMaker engine's settings, of `finepoint.toml` and flags."""
    from finepoint.engines.sagemaker.settings import load_settings

    return load_settings(cloud or (), max_price=max_price)


def sagemaker_engine(cloud: list[str] | None, max_price: float | None, run: str = "") -> SageMakerEngine:
    """Return the SageMaker engine that the flags describe."""
    from finepoint.engines.sagemaker.training import SageMakerEngine

    return SageMakerEngine(settings_of(cloud, max_price), run=run)


def engine_settings(engine: str, cloud: list[str] | None, max_price: float | None) -> dict[str, Any]:
    """Return what the functions that make runs are given of the engine.

    Raises:
        ConfigurationError: settings are wrong, or flags of the cloud come with the local engine.
    """
    from finepoint.errors import ConfigurationError

    if engine == LOCAL:
        if cloud or max_price is not None:
            raise ConfigurationError("--cloud and --max-price are for --engine sagemaker")
        return {}
    checked = sagemaker_engine(cloud, max_price)
    return {"engine": lambda run: type(checked)(checked.settings, checked.cloud, run=run).run_job}


def refuse_cloud_flags(given: Mapping[str, bool]) -> None:
    """Refuse flags that only AWS follows, where the engine is the local one.

    Args:
        given: by the flag's name, whether it was given.

    Raises:
        ConfigurationError: some were.
    """
    _refuse(given, "for --engine sagemaker; give it too, or leave them out")


def refuse_local_flags(given: Mapping[str, bool]) -> None:
    """Refuse flags that only this machine follows, where the engine is AWS's; arguments and error are as above.

    Raises:
        ConfigurationError: some were.
    """
    _refuse(given, "for this machine, without meaning with --engine sagemaker; leave them out")


def _refuse(given: Mapping[str, bool], why: str) -> None:
    from finepoint.errors import ConfigurationError

    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise ConfigurationError(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {why}")


def tell_spent(engine: str, folder: Path) -> None:
    """Say what a run's jobs were billed for in AWS."""
    if engine == SAGEMAKER:
        from finepoint.cli.output import say
        from finepoint.engines.sagemaker.rates import spent

        say(spent(folder).words())


def account(cloud: list[str] | None) -> tuple[SageMakerSettings, Cloud]:
    """Return settings and account."""
    from finepoint.engines.sagemaker.cloud import Cloud

    settings = settings_of(cloud)
    return settings, Cloud(settings.region)


def run_script_in_cloud(
    spec: JobSpec, folder: Path, cloud: list[str] | None, max_price: float | None, detach: bool, json: bool
) -> None:
    """Run a script's job on SageMaker and show what became of it; with `detach`, only submit it."""
    from finepoint.cli.output import plain, print_json, show
    from finepoint.cli.scripts import job_row, live_watcher, show_job
    from finepoint.engines.records import JobFolder

    engine = sagemaker_engine(cloud, max_price)
    watcher = live_watcher(quiet=False)
    if detach:
        name = engine.submit(folder, spec, watcher)
        if json:
            print_json(job_row(JobFolder(folder).read(), folder))
        else:
            show(f"Job {plain(name)} runs in AWS; `finepoint wait {plain(spec.name)}` brings its results home")
        return
    result = engine.run_job(folder, spec, watcher)
    show_job(result, json)
    if result.status != "Completed":
        raise typer.Exit(1)


def wait_in_cloud(folder: Path) -> dict[str, Any]:
    """Wait for a job in AWS, bring its results home, and return its record; `finepoint logs` shows what it prints."""
    from finepoint.cli.scripts import live_watcher
    from finepoint.engines.sagemaker.submitted import wait

    return wait(folder, live_watcher(quiet=True))


def stop_in_cloud(folder: Path) -> dict[str, Any]:
    """Stop a job in AWS, and return its record."""
    from finepoint.engines.sagemaker.submitted import stop

    stop(folder)
    return wait_in_cloud(folder)


def tune_script_in_cloud(
    trial: JobSpec,
    folder: Path,
    minimize: str | None,
    maximize: str | None,
    settings: dict[str, Any],
    cloud: list[str] | None,
    max_price: float | None,
    detach: bool,
    json: bool,
) -> None:
    """Tune a script by SageMaker's automatic model tuning, and show the trials; with `detach`, only begin it."""
    from rich.table import Table

    from finepoint.cli.output import plain, print_json, show
    from finepoint.cli.scripts import job_row, live_watcher
    from finepoint.engines.records import JobFolder
    from finepoint.engines.sagemaker.tuning import AmtStudy, begin, tune

    study = AmtStudy(
        settings["space"],
        minimize or "",
        maximize or "",
        strategy=settings["strategy"],
        max_jobs=settings["max_jobs"],
        max_parallel_jobs=settings["max_parallel_jobs"],
        early_stopping=settings["early_stopping"],
        seed=settings["seed"],
        warm_start=settings["warm_start"],
    )
    engine, watcher = sagemaker_engine(cloud, max_price), live_watcher(quiet=True)
    if detach:
        name = begin(engine, folder, trial, study, watcher)
        if json:
            print_json(job_row(JobFolder(folder).read(), folder))
        else:
            show(f"Study {plain(name)} runs in AWS; `finepoint wait {plain(trial.name)}` reads its trials back")
        return
    record = tune(engine, folder, trial, study, watcher)
    if json:
        print_json(record)
        return
    table = Table("training job", "status", study.objective[1], "hyperparameters", "rules that fired", pad_edge=False)
    for row in record["trials"]:
        values = ", ".join(f"{name}={value}" for name, value in row["hyperparameters"].items())
        fired = ", ".join(name for name, status in row.get("rules", {}).items() if status == "IssuesFound")
        table.add_row(plain(row["training_job"]), row["status"], str(row["objective"]), plain(values), fired)
    best = ", ".join(f"{name}={value}" for name, value in record["best"]["hyperparameters"].items())
    show(table, f"Best: {plain(best)} with {study.objective[1]} {record['best']['objective']}")
