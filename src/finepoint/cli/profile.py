"""`finepoint profile`: where time and machine go, and what to change."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finepoint.cli.arguments import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finepoint.profiler.finishing import Judged
    from finepoint.profiler.trying import Tried

group = typer.Typer(no_args_is_help=True, help="Where time and machine go while a job runs, and what to change.")

Interval = Annotated[int, typer.Option("--interval-ms", help="Between two samples of the machine, 100 to 60,000.")]
Folder = Annotated[Path | None, typer.Option("--job", help="Folder for the job.", show_default="jobs/SCRIPT-TIME")]


def _priced(price_per_hour: float | None) -> float | None:
    """Refuse what is no price before anything is run."""
    if price_per_hour is not None:
        from finepoint.profiler.summary import check_price

        check_price(price_per_hour)
    return price_per_hour


Price = Annotated[
    float | None,
    typer.Option("--price-per-hour", help="Of the machine; the report then shows the cost.", callback=_priced),
]
Job = Annotated[Path, typer.Argument(help="Folder of a job.", metavar="JOB")]


@group.command("run", context_settings={"ignore_unknown_options": True})
def run(
    script: Annotated[Path, typer.Argument(help="A Python script.", metavar="SCRIPT")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Its arguments, after `--`.", metavar="-- ARGS")] = None,
    job: Folder = None,
    interval_ms: Interval = 500,
    profile_steps: Annotated[
        int, typer.Option("--profile-steps", help="Steps under torch.profiler, after the warm-up; 0 for none.")
    ] = 0,
    price_per_hour: Price = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="Serve /metrics for Prometheus on loopback meanwhile.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a script, unchanged, under the profiler.

    The exit code is the script's.

    Examples:

        finepoint profile run train.py -- --epochs 2

        finepoint profile run train.py --profile-steps 10 --price-per-hour 1.21
    """
    from finepoint.cli.output import say
    from finepoint.profiler.finishing import finish, write_job_summary
    from finepoint.profiler.running import new_job_folder, profile_script

    folder = job or new_job_folder(script, Path("jobs"))
    with _metrics(folder, metrics_port):
        done = profile_script(
            [str(script), *(arguments or ())], folder, interval_ms=interval_ms, profile_steps=profile_steps, quiet=json
        )
    if done.not_attached:
        say(f"Steps were not seen: {done.not_attached}.")
    judged = finish(folder, price_per_hour=price_per_hour)
    write_job_summary(judged)
    _show(judged, json)
    raise typer.Exit(done.exit_code if done.exit_code >= 0 else 128 - done.exit_code)


@group.command("pid")
def pid(
    pid: Annotated[int, typer.Argument(help="A running process.", metavar="PID")],
    job: Annotated[
        Path | None, typer.Option("--job", help="Folder for the job.", show_default="jobs/pid-PID-TIME")
    ] = None,
    interval_ms: Interval = 500,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Stop after so long.")] = None,
    price_per_hour: Price = None,
    json: Json = False,
) -> None:
    """Watch a running process from outside, until it ends, or Ctrl-C: the machine's part of a profile, without steps.

    Examples:

        finepoint profile pid 4711

        finepoint profile pid 4711 --seconds 60 --interval-ms 100
    """
    from finepoint.cli.output import say
    from finepoint.profiler.finishing import finish
    from finepoint.profiler.running import new_job_folder
    from finepoint.profiler.watching import watch_process

    folder = job or new_job_folder(Path(f"pid-{pid}"), Path("jobs"))
    if not json:
        say(f"Watching process {pid}; Ctrl-C stops that.")
    watch_process(pid, folder, interval_ms=interval_ms, seconds=seconds)
    _show(finish(folder, price_per_hour=price_per_hour), json)


@group.command("live")
def live(
    job: Job,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="Serve /metrics for Prometheus on loopback meanwhile.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
) -> None:
    """Show a job as it runs: utilisation, phases, throughput, time left. Ctrl-C ends the showing, not the job.

    Examples:

        finepoint profile live jobs/train-20260101-120000
    """
    import time

    from rich.live import Live

    from finepoint.cli.dashboard import dashboard
    from finepoint.cli.output import results
    from finepoint.cli.output import show as print_results
    from finepoint.profiler.recording import open_recording

    recording = open_recording(job)
    if once:
        with _metrics(job, metrics_port):
            print_results(dashboard(recording))
        return
    with _metrics(job, metrics_port), contextlib.suppress(KeyboardInterrupt), Live(console=results()) as shown:
        while True:
            recording = open_recording(job)
            shown.update(dashboard(recording))
            if recording.ending is not None:
                return
            time.sleep(1.0)


@group.command("export")
def export(
    job: Job,
    to: Annotated[Path, typer.Option("--to", help="Folder for the files.")],
    format: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    json: Json = False,
) -> None:
    """Write a job's time lines as CSV or Parquet: a row for each sample, process, step.

    Examples:

        finepoint profile export jobs/train-20260101-120000 --to tables/ --format parquet
    """
    from finepoint.cli.output import plain, print_json, say
    from finepoint.cli.output import show as print_results
    from finepoint.profiler.exporting import export_tables

    paths = export_tables(job, to, format)  # type: ignore[arg-type]  # it refuses other formats
    if not paths:
        say(f"{job} holds no rows: neither samples of the machine nor steps were recorded. Nothing was written.")
    elif not any(path.stem == "system" for path in paths):
        say(f"{job} holds no samples of the machine.")
    if json:
        print_json([str(path) for path in paths])
    else:
        print_results(*(plain(path) for path in paths))


@group.command("try")
def try_(
    job: Job,
    steps: Annotated[int, typer.Option("--steps", help="Training steps of each window.")] = 30,
    json: Json = False,
) -> None:
    """Measure the advice: do a short window of the same job again, once for each change that can be made from outside.

    A script is ended when its window is full. It runs as it did, and so writes where it did; a job of `finepoint train
    --entry-point` runs in a folder of its own. Of a run of finepoint's, the features pass is measured, which is where
    its time goes.

    Examples:

        finepoint profile try runs/first

        finepoint profile try jobs/train-20260101-120000 --steps 40
    """
    from finepoint.cli.output import print_json, say
    from finepoint.cli.output import show as print_results
    from finepoint.profiler.trying import try_changes
    from finepoint.runs.folder import RECORD, RunFolder

    if (job / RECORD).is_file():
        from finepoint.runs.trying import try_run

        rows = try_run(RunFolder(job), steps=steps)
    else:
        from finepoint.engines.records import RECORD as JOB_RECORD
        from finepoint.engines.rerunning import job_again

        again = job_again(job, say) if (job / JOB_RECORD).is_file() else None
        rows = try_changes(job, steps=steps, again=again)
    if json:
        print_json([row.to_json() for row in rows])
        return
    print_results(tried_table(rows))


@group.command("show")
def show(job: Job, price_per_hour: Price = None, json: Json = False) -> None:
    """Judge a job's recording anew, and write its report; also of a job that was killed.

    Examples:

        finepoint profile show jobs/train-20260101-120000 --json
    """
    from finepoint.profiler.finishing import finish

    _show(finish(job, price_per_hour=price_per_hour), json)


def tried_table(rows: Sequence[Tried]) -> Any:
    """Return what was tried as a table."""
    from rich.table import Table

    from finepoint.cli.output import plain

    table = Table("change", "seconds a step", "predicted", "measured", "output", pad_edge=False)
    for row in rows:
        predicted = "–" if row.predicted is None else f"{row.predicted:.2f}"
        seconds = "–" if row.seconds_per_step is None else f"{row.seconds_per_step:.4g}"
        measured = "–" if row.measured is None else f"{row.measured:.2f}"
        table.add_row(plain(row.name), seconds, predicted, measured, plain(row.output))
    return table


def _metrics(job: Path, port: int | None) -> contextlib.AbstractContextManager[Any]:
    from finepoint.profiler.metrics import served_metrics

    return contextlib.nullcontext() if port is None else served_metrics(job, port)


def _show(judged: Judged, json: bool) -> None:
    from finepoint.cli.output import percent, plain, print_json
    from finepoint.cli.output import show as print_results
    from finepoint.profiler.wording import nothing_in_words, recorded_in_words
    from finepoint.report.profiling import write_profiler_report

    page = write_profiler_report(judged.folder)
    summary = judged.summary
    if json:
        print_json({"job": str(judged.folder), "report_path": str(page), **summary})
        return
    parts: list[Any] = []
    if summary["ending"] is not None and summary["ending"]["kind"] != "completed":
        parts.append(f"[red]{plain(summary['ending']['sentence'])}[/]")
    parts += map(plain, recorded_in_words(summary))
    if summary["cpu_utilisation_p50"] is not None:
        memory = (summary["peak_memory_bytes"] or 0) / 2**20
        parts.append(f"Processor {percent(summary['cpu_utilisation_p50'])} (median), memory at most {memory:,.0f} MiB.")
    for result in judged.findings:
        parts += ["", f"[bold]{result.rule}[/]: {plain(result.meaning)}", f"  To do: {plain(result.remedy)}."]
        if result.evidence["share_of_time"]:  # a leak takes no time, it ends the job
            parts.append(f"  {_promise(result.evidence)}")
    if not judged.findings:
        parts += ["", nothing_in_words(summary, judged.own)]
    if summary["cost"] is not None:
        parts += [
            "",
            f"It cost {summary['cost']['total']:.4g}, of which {percent(summary['cost']['wasted_share'])} was wasted.",
        ]
    print_results(*parts, "", f"Report: {plain(page)}")


def _promise(evidence: Any) -> str:
    from finepoint.cli.output import percent

    words = f"It is about {percent(evidence['share_of_time'])} of the time"
    bound, speedup = evidence["amdahl_bound"], evidence["predicted_speedup"]
    if bound:
        words += f"; without it the loop would be at most {bound:.2f} times as fast"
    return words + (
        f"; predicted: {speedup:.2f} times." if speedup else "; how much the change gives must be measured."
    )
