"""`finepoint stop`: end a job."""

from __future__ import annotations

from finepoint.cli.arguments import JobArgument, Json, RunsDir


def command(job: JobArgument, runs_dir: RunsDir = None, json: Json = False) -> None:
    """Stop a job: SIGTERM, and SIGKILL after its grace time (120 s); asked twice, it is killed at once.

    Examples:

        finepoint stop train-2026-11-24-11-24-05-458
    """
    from finepoint.cli.cloud import stop_in_cloud
    from finepoint.cli.output import plain, plain_lines, print_json, show
    from finepoint.cli.scripts import job_row
    from finepoint.engines.jobs import find_job, stop
    from finepoint.engines.records import in_cloud
    from finepoint.runs.folder import runs_dir as default_dir

    found = find_job(job, default_dir(runs_dir))
    row = job_row(stop_in_cloud(found.path) if in_cloud(found.path) else stop(found), found.path)
    if json:
        print_json(row)
    else:
        show(f"Job [bold]{plain(row['job'])}[/]: {row['status']}. {plain_lines(row['failure'])}".rstrip(". "))
