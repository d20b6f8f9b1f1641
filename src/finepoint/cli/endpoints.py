"""`finepoint endpoints`: the endpoints on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finepoint.cli.arguments import Json
from finepoint.cli.cloud import CloudSetting, Engine, account

if TYPE_CHECKING:
    from finepoint.engines.sagemaker.hosting import Hosting

_COLOURS = {"healthy": "green", "unhealthy": "red", "stale": "yellow"}


def command(engine: Engine = "local", cloud: CloudSetting = None, json: Json = False) -> None:
    """List the endpoints on this machine, or in AWS with what they cost so far, and how they are.

    `answers/s` is over the last minute, the times are from a request's head to its answer, of the last 1,000; an
    endpoint with a token shows them where `$FINEPOINT_TOKEN` holds it. `stale` means that the server's process is
    gone; `finepoint undeploy NAME` forgets it.

    Examples:

        finepoint endpoints

        finepoint endpoints --json

        finepoint endpoints --engine sagemaker
    """
    from dataclasses import asdict

    from finepoint.cli.output import plain, print_json, show
    from finepoint.serving.deployment import endpoints

    if engine == "sagemaker":
        _list_in_cloud(cloud, json)
        return
    found = endpoints()
    if json:
        print_json([{**asdict(item.record), "state": item.state, "traffic": dict(item.traffic)} for item in found])
        return
    if not found:
        show("No endpoints on this machine; `finepoint deploy RUN` makes one.")
        return
    from rich.table import Table

    table = Table("name", "state", "answers/s", "p50 / p99 ms", "address", "model", "since", pad_edge=False)
    for item in found:
        record, traffic = item.record, item.traffic
        state = f"[{_COLOURS[item.state]}]{item.state}[/]"
        rate = f"{traffic['answers_per_second']:.1f}" if traffic else ""
        times = f"{1000 * traffic['p50_seconds']:.0f} / {1000 * traffic['p99_seconds']:.0f}" if traffic else ""
        model = f"{plain(record.model)} ({record.model_version})"
        table.add_row(plain(record.name), state, rate, times, record.url, model, record.started_at)
    show(table)


def _list_in_cloud(cloud: list[str] | None, json: bool) -> None:
    from dataclasses import asdict

    from finepoint.cli.output import plain, print_json, show
    from finepoint.engines.sagemaker.endpoints import list_endpoints

    _, where = account(cloud)
    found = list_endpoints(where)
    if json:
        print_json([asdict(item) for item in found])
        return
    if not found:
        show(f"No endpoints in {where.region}.")
        return
    from rich.table import Table

    table = Table("name", "state", "kind", "machine", "since", "cost so far, USD", "made by", pad_edge=False)
    for item in found:
        about = "about " if item.estimated else ""
        cost = "unknown" if item.dollars is None else f"{about}{item.dollars:.2f}"
        owner = plain(item.run) if item.run else "not finepoint"
        table.add_row(plain(item.name), item.status, item.mode, item.instance_type, item.created_at, cost, owner)
    show(table)
    if any(item.estimated for item in found):
        show("about: reckoned with the machines of now, but it was updated, or their number changes with the load.")


def deploy_in_cloud(
    model: str,
    name: str | None,
    hosting: Hosting,
    cloud: list[str] | None,
    max_price: float | None,
    runs_dir: Path | None,
    json: bool,
    entry_point: str | None,
    source_dir: Path | None,
) -> None:
    """Put a model behind an endpoint in AWS; a script's model gets the script that serves it."""
    from dataclasses import asdict

    from finepoint.cli.cloud import settings_of
    from finepoint.cli.output import plain, print_json, say, show
    from finepoint.engines.packing import pack_with_script
    from finepoint.engines.sagemaker.cloud import Cloud
    from finepoint.engines.sagemaker.endpoints import deploy
    from finepoint.files import state_dir
    from finepoint.runs.deploying import default_name
    from finepoint.runs.workflow import model_path

    settings = settings_of(cloud, max_price)
    package = model_path(model, runs_dir)
    name = name or default_name(package)
    if entry_point is not None:
        package = pack_with_script(package, entry_point, source_dir, state_dir() / "models" / f"{name}.tar.gz")
    found = deploy(Cloud(settings.region), settings, package, name, hosting=hosting, say=say)
    if json:
        print_json(asdict(found))
        return
    show(
        f"Endpoint [bold]{plain(found.name)}[/] is {found.status}",
        f"  finepoint query {plain(found.name)} IMAGE.jpg --engine sagemaker",
        f"  finepoint undeploy {plain(found.name)} --engine sagemaker",
    )


def undeploy_in_cloud(endpoint: str | None, cloud: list[str] | None) -> list[str]:
    """Delete an endpoint in AWS with its configuration and model; without a name all that finepoint made."""
    from finepoint.engines.sagemaker.endpoints import list_endpoints, undeploy

    _, where = account(cloud)
    wanted = [item.name for item in list_endpoints(where) if item.run] if endpoint is None else [endpoint]
    return [line for name in wanted for line in undeploy(where, name)]
