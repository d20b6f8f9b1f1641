"""`finepoint wait`: wait for a job."""

from __future__ import annotations

import typer

from finepoint.cli.arguments import JobArgument, Json, RunsDir


def command(job: JobArgument, runs_dir: RunsDir = None, json: Json = False) -> None:
    """Wait until a job has ended; the exit code is 0 if it completed.

    Examples:

        finepoint wait train-2026-11-24-11-24-05-458 && echo done
    """
    from finepoint.cli.cloud import wait_in_cloud
    from finepoint.cli.output import plain, plain_lines, print_json, show
    from finepoint.cli.scripts import job_row
    from finepoint.engines.jobs import find_job, wait
    from finepoint.engines.local import how_it_ended
    from finepoint.engines.records import in_cloud
    from finepoint.runs.folder import runs_dir as default_dir

    found = find_job(job, default_dir(runs_dir))
    row = job_row(wait_in_cloud(found.path) if in_cloud(found.path) else wait(found), found.path)
    if json:
        print_json(row)
    else:
        failed = row["status"] == "Failed" and row["exit_code"] is not None
        how = f" ({how_it_ended(row['exit_code'])})" if failed else ""
        show(f"Job [bold]{plain(row['job'])}[/]: {row['status']}{how}. {plain_lines(row['failure'])}".rstrip(". "))
    if row["status"] != "Completed":
        raise typer.Exit(1)
