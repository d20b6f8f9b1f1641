"""`finepoint cleanup`: stop and delete what a run, job or endpoint left in AWS."""

from __future__ import annotations

from typing import Annotated

import typer

from finepoint.cli.arguments import Json


def command(
    name: Annotated[
        str | None, typer.Argument(help="A run, job or endpoint; without it what is left is listed.", metavar="[NAME]")
    ] = None,
    json: Json = False,
) -> None:
    """Stop jobs and delete endpoints, configurations and models that a run, job or endpoint created in AWS.

    Everything was written down on this machine before it was made, so that also what an interrupted command began is
    found. Data and results in S3 stay. What AWS refuses to delete is named at the end, after all else is gone; the exit
    code is then 1, and the same command tries it again.

    Examples:

        finepoint cleanup

        finepoint cleanup first
    """
    from dataclasses import asdict

    from finepoint.cli.output import complain, plain, print_json, show
    from finepoint.engines.sagemaker.cleanup import cleanup
    from finepoint.engines.sagemaker.cloud import Cloud
    from finepoint.engines.sagemaker.ledger import ledgers

    if name is None:
        left = [(ledger.name, one) for ledger in ledgers() for one in ledger.resources() if not one.gone]
        if json:
            print_json([{"of": owner, **asdict(one)} for owner, one in left])
            return
        for owner, one in left:
            show(f"{plain(owner)}: {one.kind} {plain(one.name)} in {one.region}, since {one.recorded_at}")
        if not left:
            show("Nothing that finepoint created in AWS from this machine is left.")
        return
    removed = cleanup(name, Cloud)
    failed = [entry for entry in removed if entry.failure]
    if json:
        rows = [(entry, {**asdict(entry.resource), "was_there": entry.was_there}) for entry in removed]
        print_json([{**row, "failure": entry.failure} for entry, row in rows])
    for entry in () if json else removed:
        if entry.failure:
            continue
        state = "stopped or deleted" if entry.was_there else "was gone already, or was never made"
        show(f"{entry.resource.kind} {plain(entry.resource.name)}: {state}")
    for entry in failed:
        complain(f"{entry.resource.kind} {entry.resource.name} in {entry.resource.region} is left: {entry.failure}")
    if failed:
        raise typer.Exit(1)
    if not removed and not json:
        show(f"Nothing of {plain(name)} is left in AWS.")
