"""`finepoint logs`: what a job printed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from finepoint.cli.arguments import JobArgument, Json, RunsDir


def command(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    runs_dir: RunsDir = None,
    json: Json = False,
) -> None:
    """Print a job's log.

    Examples:

        finepoint logs train-2026-11-24-11-24-05-458

        finepoint logs -f first/training
    """
    from finepoint.cli.cloud import refresh
    from finepoint.cli.output import print_json
    from finepoint.engines.jobs import find_job, read_log
    from finepoint.engines.records import in_cloud
    from finepoint.runs.folder import runs_dir as default_dir

    found = find_job(job, default_dir(runs_dir))
    if in_cloud(found.path):
        refresh(found.path, follow=follow)
    lines = read_log(found, follow=False if in_cloud(found.path) else follow)
    if json:
        print_json({"job": job, "lines": [line.rstrip("\n") for line in lines]})
        return
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()
