"""`finepoint debug`: record a training script, look at recordings, judge them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from finepoint.cli.arguments import Json

group = typer.Typer(help="Record a training script without changing it, and name what is wrong.", no_args_is_help=True)
Job = Annotated[
    str, typer.Argument(help="A job or run: folder, name, or s3:// address of its debug-output.", metavar="JOB")
]
Rules = Annotated[list[str] | None, typer.Option("--rule", help="Rule to judge by; several may be given.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Parameter of the rule: threshold=1e-5, or Rule.threshold=1e-5.")
]


@group.callback()
def root() -> None:
    """Record a training script without changing it, and name what is wrong."""


@group.command("run", context_settings={"ignore_unknown_options": True})
def run(
    script: Annotated[Path, typer.Argument(help="Training script.", metavar="SCRIPT")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="The script's own arguments, after --.", metavar="-- ARGS")
    ] = None,
    job: Annotated[
        Path | None, typer.Option("--job", help="Folder for the job.", show_default="jobs/SCRIPT-TIME")
    ] = None,
    python: Annotated[str | None, typer.Option(help="Interpreter to run it with.", show_default="this one")] = None,
    hook_config: Annotated[
        Path | None, typer.Option(help="debughookconfig.json for a script that uses smdebug's hook.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Share of the job's time that recording may take.")] = 0.03,
    stop_on: Annotated[list[str] | None, typer.Option(help="Rule that ends the job when it fires.")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Run a script with the debugger attached, then say what its rules found.

    The job's folder holds debug-output/ (the recording), rule-output/debugger.json, logs.txt and job.json.

    Examples:

        finepoint debug run train.py -- --epochs 3

        finepoint debug run train.py --stop-on NotANumber --job jobs/first -- --lr 0.05
    """
    import sys
    import time

    from finepoint.cli.debug_output import print_results
    from finepoint.cli.output import print_json, say
    from finepoint.debugger.launching import DebugJob, run_script

    folder = job or Path("jobs") / f"{script.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    result = run_script(
        DebugJob(
            script,
            arguments or (),
            folder,
            python or sys.executable,
            hook_config,
            budget,
            stop_on or (),
            parameters=_parameters(set_, None),
        ),
        sys.stderr if json else sys.stdout,
    )
    if json:
        print_json(
            {
                "job": str(folder),
                "status": result.status,
                "exit_code": result.exit_code,
                "stopped_by": result.stopped_by,
                "overhead_fraction": result.overhead_fraction,
                "notes": result.unseen,
                "findings": [item.to_json() for item in result.results],
            }
        )
    else:
        print_results(result.results)
        for text in result.unseen:
            say(f"note: {text}")
        if result.stopped_by:
            say(f"{result.stopped_by} ended the job")
        if result.overhead_fraction is not None:
            say(f"recording took {100 * result.overhead_fraction:.1f} % of the job's time; it is in {folder}")
    if result.exit_code and not result.stopped_by:
        say(f"the script ended with exit code {result.exit_code}; its log is {folder / 'logs.txt'}")
        raise typer.Exit(1)


@group.command("show")
def show_command(
    job: Job,
    regex: Annotated[str | None, typer.Argument(help="Only names in which this is found.", metavar="REGEX")] = None,
    json: Json = False,
) -> None:
    """List what was recorded: names, modes, steps, last values.

    Examples:

        finepoint debug show jobs/first

        finepoint debug show jobs/first 'gradient/.*weight' --json
    """
    from finepoint.cli.debug_output import open_recording, show_recording

    show_recording(open_recording(job), regex, json)


@group.command("plot")
def plot_command(
    job: Job,
    regex: Annotated[str, typer.Argument(help="A name, or a pattern to be found in names.", metavar="REGEX")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Image to write: .png, .svg or .pdf.")] = Path(
        "plot.png"
    ),
    reduction: Annotated[str | None, typer.Option(help="Which reduction of it.")] = None,
) -> None:
    """Draw what matches, training and evaluation on one figure.

    Example:

        finepoint debug plot jobs/first '[Ll]oss_output' -o loss.png
    """
    from finepoint.cli.debug_output import open_recording
    from finepoint.cli.output import show
    from finepoint.debugger.plotting import plot

    plot(open_recording(job), regex, reduction).savefig(output, dpi=150)
    show(str(output))


@group.command("tail")
def tail(
    job: Job,
    regex: Annotated[
        str, typer.Argument(help="What to follow.", metavar="REGEX")
    ] = "[Ll]oss_(?!input).*output|^scalar/|^learning_rate/",
    period: Annotated[float, typer.Option(help="Seconds between looks.")] = 1.0,
) -> None:
    """Print values as they are recorded, until the job ends; also of a job that runs in AWS.

    Examples:

        finepoint debug tail jobs/first

        finepoint debug tail train-2026-11-24-11-24-05-458
    """
    from finepoint.cli.debug_output import follow

    follow(job, regex, period)


@group.command("check")
def check(job: Job, rule: Rules = None, set_: Set = None, json: Json = False) -> None:
    """Judge a recording by the rules: by all, or by those named.

    Exit code 1 says that a rule found an issue.

    Examples:

        finepoint debug check jobs/first

        finepoint debug check jobs/first --rule VanishingGradient --set threshold=1e-5
    """
    from finepoint.cli.debug_output import open_recording, print_results
    from finepoint.cli.output import print_json
    from finepoint.debugger.rules.checking import check_recording

    results = check_recording(open_recording(job), rule or None, _parameters(set_, rule))
    if json:
        print_json([item.to_json() for item in results])
    else:
        print_results(results)
    if any(item.fired for item in results):
        raise typer.Exit(1)


@group.command("export")
def export(
    job: Job,
    tensorboard: Annotated[Path, typer.Option("--tensorboard", help="Folder for TensorBoard's event files.")],
) -> None:
    """Export a recording for other tools.

    Example:

        finepoint debug export jobs/first --tensorboard events/ && tensorboard --logdir events/
    """
    from finepoint.cli.debug_output import open_recording
    from finepoint.cli.output import show
    from finepoint.debugger.tensorboard import export_tensorboard

    count = export_tensorboard(open_recording(job), tensorboard)
    show(f"{count} values; tensorboard --logdir {tensorboard}")


def _parameters(given: list[str] | None, rules: list[str] | None) -> dict[str, dict[str, Any]]:
    """Return rules' parameters by rule, from `name=value` (of the one rule named) or `Rule.name=value`."""
    from finepoint.errors import ConfigurationError

    found: dict[str, dict[str, Any]] = {}
    mistakes = []
    for text in given or ():
        name, equals, value = text.partition("=")
        rule, dot, parameter = name.partition(".")
        if not equals:
            mistakes.append(f"--set {text}: give a name and a value, as in threshold=1e-5")
        elif dot:
            found.setdefault(rule, {})[parameter] = value
        elif rules is not None and len(rules) == 1:
            found.setdefault(rules[0], {})[name] = value
        else:
            mistakes.append(f"--set {text}: say of which rule, as in VanishingGradient.{text}")
    if mistakes:
        raise ConfigurationError(mistakes)
    return found
