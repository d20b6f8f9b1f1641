"""`finepoint rm`: remove jobs and runs."""

from __future__ import annotations

from typing import Annotated

import typer

from finepoint.cli.arguments import Json, RunsDir


def command(
    names: Annotated[list[str], typer.Argument(help="Jobs or runs (name or folder).", metavar="JOB|RUN...")],
    runs_dir: RunsDir = None,
    json: Json = False,
) -> None:
    """Remove jobs and runs with all that they made; what runs is refused, and data outside is left alone.

    Examples:

        finepoint rm train-2026-11-24-11-24-05-458 first
    """
    from finepoint.cli.output import plain, print_json, show
    from finepoint.engines.jobs import find_job, remove
    from finepoint.errors import NotFoundError
    from finepoint.runs.folder import find_run
    from finepoint.runs.folder import runs_dir as default_dir

    folders = []
    for name in names:
        try:
            folders.append(find_run(name, runs_dir).path)
        except NotFoundError:
            folders.append(find_job(name, default_dir(runs_dir)).path)
    for folder in folders:
        remove(folder)
    if json:
        print_json({"removed": [str(folder) for folder in folders]})
    else:
        show(f"Removed {', '.join(plain(folder) for folder in folders)}")
