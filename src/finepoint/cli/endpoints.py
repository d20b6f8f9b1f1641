"""`finepoint endpoints`: the endpoints on this machine."""

from __future__ import annotations

from finepoint.cli.arguments import Json

_COLOURS = {"healthy": "green", "unhealthy": "red", "stale": "yellow"}


def command(json: Json = False) -> None:
    """List the endpoints on this machine and how they are.

    `stale` means that the server's process is gone; `finepoint undeploy NAME` forgets it.

    Examples:

        finepoint endpoints

        finepoint endpoints --json
    """
    from dataclasses import asdict

    from finepoint.cli.output import plain, print_json, show
    from finepoint.serving.deployment import endpoints

    found = endpoints()
    if json:
        print_json([{**asdict(item.record), "state": item.state} for item in found])
        return
    if not found:
        show("No endpoints on this machine; `finepoint deploy RUN` makes one.")
        return
    from rich.table import Table

    table = Table("name", "state", "address", "model", "since", pad_edge=False)
    for item in found:
        record = item.record
        state = f"[{_COLOURS[item.state]}]{item.state}[/]"
        table.add_row(plain(record.name), state, record.url, plain(record.model), record.started_at)
    show(table)
