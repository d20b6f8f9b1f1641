"""Flags of jobs that run a script, and how such a job is shown; `train` and `tune` share them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from finepoint.engines.local import Watcher
    from finepoint.engines.spec import JobResult, JobSpec

_PANEL = "A script of yours"


def option(*names: str, text: str, metavar: str | None = None) -> Any:
    """Return a flag of the panel for scripts."""
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=_PANEL)


EntryPoint = Annotated[
    str | None, option("--entry-point", text="Script to run instead of finepoint's trainer.", metavar="FILE")
]
SourceDir = Annotated[
    Path | None, option("--source-dir", text="Folder that holds it; without it the script comes alone.", metavar="DIR")
]
Hyperparameter = Annotated[
    list[str] | None, option("--hp", text="Hyperparameter, handed over as `--KEY VALUE`.", metavar="KEY=VALUE")
]
ChannelPath = Annotated[
    list[str] | None,
    option("--channel", text="Input, found at SM_CHANNEL_NAME: a path, s3://, or a .manifest.", metavar="NAME=PATH"),
]
InputMode = Annotated[
    Literal["File", "FastFile", "Pipe"],
    option("--input-mode", text="Of the channels: File, FastFile, or in AWS Pipe."),
]
MetricText = Annotated[
    list[str] | None, option("--metric-definition", text="Metric to read from the log.", metavar="NAME=REGEX")
]
Variable = Annotated[list[str] | None, option("--env", text="Variable of the environment.", metavar="NAME=VALUE")]
InstanceCount = Annotated[int, option("--instance-count", text="Hosts; here each is a process.")]
Distribution = Annotated[str, option("--distribution", text="torch_distributed (torchrun) or nothing.", metavar="NAME")]
MaxRun = Annotated[
    float | None, option("--max-run", text="Stop after so many seconds; SIGKILL 120 s later.", metavar="SECONDS")
]
CheckpointDir = Annotated[
    str | None,
    option("--checkpoint-dir", text="Keep checkpoints there, a folder or s3://, not in the job.", metavar="PLACE"),
]
Offline = Annotated[bool, option("--offline", text="Download nothing: requirements.txt must be met already.")]
Debug = Annotated[
    bool | None,
    option(
        "--debug/--no-debug",
        text="Record the training and judge it by rules; finepoint's trainer is recorded unless --no-debug.",
    ),
]
StopOn = Annotated[
    list[str] | None,
    option("--stop-on", text="Rule that ends the job when it fires, with --debug.", metavar="RULE"),
]
Profile = Annotated[
    bool | None,
    option(
        "--profile/--no-profile",
        text="Record where its time goes, and report that; finepoint's trainer is recorded unless --no-profile.",
    ),
]
BestOf = Annotated[
    str | None, option("--best-of", text="Take the hyperparameters of a study's best trial.", metavar="STUDY")
]
Detach = Annotated[bool, option("--detach", text="Go on in the background; see `finepoint logs`, `wait`, `stop`.")]


def script_spec(
    name: str,
    entry_point: str,
    source_dir: Path | None,
    *,
    hp: Sequence[str] | None,
    channel: Sequence[str] | None,
    metric_definition: Sequence[str] | None,
    env: Sequence[str] | None,
    input_mode: Literal["File", "FastFile", "Pipe"] = "File",
    instance_count: int,
    distribution: str,
    max_run: float | None,
    checkpoint_dir: str | None,
    offline: bool,
    best_of: Path | None = None,
    debug: bool | None = False,
    stop_on: Sequence[str] | None = None,
    profile: bool = False,
) -> JobSpec:
    """Return the spec that the flags of a script job describe.

    Args:
        name: of the job.
        best_of: folder of a study, whose best hyperparameters are taken where no flag says otherwise.
        entry_point: and all others: the flags.

    Raises:
        ConfigurationError: flags are wrong; all are listed.
    """
    from finepoint.engines.debugging import debugger_configuration
    from finepoint.engines.encoding import parse_hyperparameter
    from finepoint.engines.metrics import MetricDefinition
    from finepoint.engines.profiling import profiler_configuration
    from finepoint.engines.spec import Channel, JobSpec, Limits, Resources
    from finepoint.errors import ConfigurationError

    mistakes: list[str] = []
    best = best_hyperparameters(best_of) if best_of else {}
    hyperparameters = best | {key: parse_hyperparameter(value) for key, value in _pairs("--hp", hp, mistakes)}
    channels = {key: Channel(_absolute(value), input_mode) for key, value in _pairs("--channel", channel, mistakes)}
    metrics = tuple(MetricDefinition(*pair) for pair in _pairs("--metric-definition", metric_definition, mistakes))
    environment = dict(_pairs("--env", env, mistakes))
    source = source_dir or Path(entry_point)
    if stop_on and not debug:
        mistakes.append("--stop-on needs --debug")
    try:
        debugger = debugger_configuration(stop_on=stop_on or ()) if debug else None
        spec = JobSpec(
            name,
            entry_point=entry_point if source_dir else source.name,
            source_dir=str(source.resolve()),
            hyperparameters=hyperparameters,
            channels=channels,
            resources=Resources(instance_count),
            limits=Limits(max_run),
            metric_definitions=metrics,
            distribution=distribution,
            requirements="offline" if offline else "install",
            checkpoint_location=_absolute(checkpoint_dir) if checkpoint_dir else "",
            environment=environment,
            debugger=debugger,
            profiler=profiler_configuration() if profile else None,
        )
    except ConfigurationError as error:
        raise ConfigurationError([*mistakes, *error.mistakes]) from None
    if mistakes:
        raise ConfigurationError(mistakes)
    return spec


def live_watcher(*, quiet: bool, hosts: int = 1) -> Watcher:
    """Return a watcher that prints what a script prints, to standard error so that results stay apart.

    Args:
        quiet: leave out what it prints.
        hosts: of the job; of several, each line begins with its host's name.
    """
    from finepoint.cli.output import say
    from finepoint.engines.local import Watcher

    def on_line(host: str, line: str) -> None:
        prefix = f"[{host}] " if hosts > 1 else ""
        sys.stderr.write(prefix + line.rstrip("\n") + "\n")  # the last line may lack its end
        sys.stderr.flush()

    return Watcher(say=say) if quiet else Watcher(say=say, on_line=on_line)


def best_hyperparameters(study: Path) -> dict[str, Any]:
    """Return the hyperparameters of the best trial of a study, which ran here or in AWS.

    Raises:
        NotFoundError: the study has not ended, or the folder has none, or no trial was completed.
    """
    from finepoint.engines.records import tuning_name
    from finepoint.engines.trials import OUTPUT
    from finepoint.errors import NotFoundError
    from finepoint.files import read_json

    found: dict[str, Any] | None
    if tuning_name(study):
        from finepoint.engines.sagemaker.tuning import best_of

        found = best_of(study)
    else:
        found = read_json(study / OUTPUT)["best_hyperparameters"] if (study / OUTPUT).is_file() else None
    if not found:
        raise NotFoundError(f"{study.name} is no study with a best trial; `finepoint tune --entry-point ...` makes one")
    return dict(found)


def show_job(result: JobResult, json: bool) -> None:
    """Print what became of a script's job, whichever engine ran it: its model, what the rules say, its profile."""
    from finepoint.cli.debug_output import print_results
    from finepoint.cli.output import plain, print_json, say, show
    from finepoint.engines.debugging import read_results
    from finepoint.engines.records import JobFolder
    from finepoint.report.profiling import write_profiler_report
    from finepoint.results import RuleResult

    folder = result.folder
    row = job_row(JobFolder(folder).read(), folder)
    if json:
        print_json(row)
    else:
        values = ", ".join(f"{plain(name)} {value:g}" for name, value in result.metrics.items())
        # Of one that failed, the last words were just printed.
        why = f": {plain(result.failure)}" if result.status == "Stopped" else ""
        words = f"{result.status} after {result.seconds:.1f} s{why}. {values}".rstrip(". ")
        show(f"Job [bold]{plain(folder.name)}[/]: {words}")
        if result.status != "Failed":  # of which nothing is packed
            show(f"Model: {plain(row['model'])}" if row["model"] else "It left nothing in SM_MODEL_DIR.")
        if row["rules"]:
            print_results([RuleResult(**value) for value in read_results(folder)])
    if row["profiler_rules"]:
        say(f"Profile: {write_profiler_report(folder)}")


def job_row(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what `--json` prints of a job."""
    model = path / "output" / "model.tar.gz"
    return {
        "job": path.name,
        "path": str(path),
        "status": record["status"],
        "exit_code": record.get("exit_code"),
        "failure": record.get("failure", ""),
        "metrics": record.get("metrics", {}),
        "rules": record.get("rules", {}),
        "profiler_rules": record.get("profiler_rules", {}),
        "seconds": record.get("seconds"),
        "model": str(model) if model.is_file() else None,
        "started_at": record["started_at"],
        "finished_at": record["finished_at"],
    }


def _pairs(flag: str, texts: Sequence[str] | None, mistakes: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for text in texts or ():
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            mistakes.append(f"{flag} {text!r} is not NAME=VALUE")
        elif key.strip() in dict(found):
            mistakes.append(f"{flag} {key.strip()} is given twice")
        else:
            found.append((key.strip(), value))
    return found


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).resolve())
