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
    from finepoint.cli.output import print_json, say
    from finepoint.engines.jobs import find_job, read_log
    from finepoint.engines.local import Watcher
    from finepoint.engines.records import in_cloud
    from finepoint.runs.folder import runs_dir as default_dir

    found = find_job(job, default_dir(runs_dir))
    if in_cloud(found.path):
        from finepoint.engines.sagemaker import submitted

        if follow and found.read()["status"] == "InProgress":
            submitted.wait(found.path, Watcher(say=say, on_line=lambda host, line: None if json else _print(line)))
            if not json:
                return  # every line has been printed as it came
        submitted.bring_log(found.path)
        follow = False
    lines = read_log(found, follow=follow)
    if json:
        print_json({"job": job, "lines": [line.rstrip("\n") for line in lines]})
        return
    for line in lines:
        _print(line)


def _print(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
