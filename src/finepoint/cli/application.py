"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from finepoint.cli import (
    cache,
    cleanup,
    data,
    debug,
    demo,
    deploy,
    doctor,
    endpoints,
    evaluate,
    loadtest,
    logs,
    monitor,
    predict,
    profile,
    quantise,
    query,
    rehearse,
    report,
    rm,
    run,
    runs,
    stop,
    train,
    tune,
    undeploy,
    wait,
)

application = typer.Typer(
    name="finepoint",
    help="From a folder of labelled images to a deployed classifier, on one machine.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
application.add_typer(data.group, name="data", rich_help_panel="Make a classifier")
application.add_typer(profile.group, name="profile", rich_help_panel="Look at it")
application.add_typer(debug.group, name="debug", rich_help_panel="Look at it")
for _panel, _commands in {
    "Make a classifier": {"run": run, "tune": tune, "train": train},
    "Look at it": {"evaluate": evaluate, "predict": predict, "runs": runs, "report": report},
    "Jobs": {"logs": logs, "wait": wait, "stop": stop, "rm": rm},
    "Put it to use": {
        "quantise": quantise,
        "deploy": deploy,
        "query": query,
        "endpoints": endpoints,
        "monitor": monitor,
        "loadtest": loadtest,
        "undeploy": undeploy,
    },
    "In AWS": {"cleanup": cleanup, "rehearse": rehearse},
    "Find your way": {"demo": demo, "doctor": doctor, "cache": cache},
}.items():
    for _name, _module in _commands.items():
        application.command(_name, rich_help_panel=_panel)(_module.command)


def _version(wanted: bool) -> None:
    if wanted:
        from finepoint import __version__

        typer.echo(f"finepoint {__version__}")
        raise typer.Exit


@application.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """From a folder of labelled images to a deployed classifier, on one machine."""
