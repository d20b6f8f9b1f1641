"""`finepoint report`: a run's report."""

from __future__ import annotations

from typing import Annotated

import typer

from finepoint.cli.arguments import Json, RunsDir


def command(
    run: Annotated[str, typer.Argument(help="A run (name or folder).", metavar="RUN")],
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    runs_dir: RunsDir = None,
    json: Json = False,
) -> None:
    """Write a run's report anew from its files, and print where it is.

    Examples:

        finepoint report first

        finepoint report first --open
    """
    import webbrowser

    from finepoint.cli.output import plain, print_json, show
    from finepoint.errors import NotFoundError
    from finepoint.report.page import write_report
    from finepoint.runs.folder import find_run

    folder = find_run(run, runs_dir)
    if not folder.summary.is_file():
        raise NotFoundError(f"run {folder.name} is not finished; go on with `finepoint run PATH --run {folder.name}`")
    path = write_report(folder.path).resolve()
    if json:
        print_json({"run": folder.name, "report_path": str(path)})
    else:
        show(plain(path))
    if open_:
        webbrowser.open(path.as_uri())
