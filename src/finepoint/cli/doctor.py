"""`finepoint doctor`: what is installed, what this machine has, what would be chosen, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from finepoint.cli.arguments import Json
from finepoint.cli.cloud import CloudSetting, Engine


def command(
    backbone: Annotated[
        str, typer.Option("--backbone", help="Backbone to choose a runtime for.")
    ] = "efficientnet_lite0",
    gpu: Annotated[
        bool,
        typer.Option("--gpu", help="Check an NVIDIA GPU under load, and record its answers in nvml-session.jsonl."),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="In AWS: run the smallest job and the smallest endpoint, for a few cents, and delete them.",
            rich_help_panel="In AWS",
        ),
    ] = False,
    engine: Engine = "local",
    cloud: CloudSetting = None,
    json: Json = False,
) -> None:
    """Show versions, what this machine has, and which runtime computes features here, and why.

    The exit code is 1 where something is missing that a run needs.

    Examples:

        finepoint doctor

        finepoint doctor --backbone resnet50 --json

        finepoint doctor --gpu

        finepoint doctor --engine sagemaker

        finepoint doctor --engine sagemaker --live
    """
    if engine == "sagemaker":
        _doctor_in_cloud(cloud, live, json)
        return
    if gpu:
        raise typer.Exit(_check_gpu(json))
    from finepoint.cli.output import plain, print_json, show
    from finepoint.models.building import versions
    from finepoint.runs.folder import runs_dir
    from finepoint.runs.summary import machine

    answer: dict[str, Any] = {
        "versions": versions(),
        "machine": machine(),
        "folders": _folders(str(runs_dir())),
        "runtime": _runtime(backbone),
    }
    healthy = "error" not in answer["runtime"]
    if json:
        print_json(answer)
        raise typer.Exit(0 if healthy else 1)
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    host, chosen = answer["machine"], answer["runtime"]
    rows = {
        "machine": f"{host['processor']}, {host['cores']} cores, "
        f"{host['memory_bytes'] / 2**30:.0f} GiB, {host['system']}",
        "versions": ", ".join(f"{name} {version}" for name, version in answer["versions"].items()),
        **{f"{name} folder": path for name, path in answer["folders"].items()},
        "runtimes": ", ".join(chosen["candidates"]),
        "bf16": "this CPU computes in bf16" if chosen["cpu_has_bf16"] else "not on this CPU; f32 is used",
        backbone: chosen.get("error") or f"{chosen['runtime']}/{chosen['precision']}: {chosen['reason']}",
    }
    for name, value in rows.items():
        table.add_row(f"[dim]{plain(name)}[/]", "\n".join(map(plain, value.splitlines())))
    show(table, "[green]Ready.[/]" if healthy else "[red]Not ready; see above.[/]")
    raise typer.Exit(0 if healthy else 1)


def _doctor_in_cloud(cloud: list[str] | None, live: bool, json: bool) -> None:
    from finepoint.cli.cloud import account
    from finepoint.cli.output import print_json, say, show
    from finepoint.cli.verdicts import finding_lines
    from finepoint.engines.sagemaker.diagnosis import diagnose
    from finepoint.engines.sagemaker.live import try_out

    settings, where = account(cloud)
    found = diagnose(settings, where)
    if live and all(finding.severity != "error" for finding in found):
        found += try_out(settings, where, say)
    rows: list[Mapping[str, Any]] = [finding.to_json() for finding in found]
    healthy = all(finding.severity != "error" for finding in found)
    if json:
        print_json(rows)
    else:
        show(*finding_lines(rows), "[green]Ready.[/]" if healthy else "[red]Not ready; see above.[/]")
    raise typer.Exit(0 if healthy else 1)


def _check_gpu(json: bool) -> int:
    from dataclasses import asdict
    from pathlib import Path

    from finepoint.cli.output import plain, print_json, show
    from finepoint.profiler.gpu_check import check_gpu

    checks = check_gpu(Path.cwd())
    if json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            show(f"{'[green]yes[/]' if check.passed else '[red]no[/]'}  {plain(check.name)}: {plain(check.detail)}")
    return 0 if all(check.passed for check in checks) else 1


def _folders(runs: str) -> dict[str, str]:
    from finepoint.files import cache_dir, state_dir

    return {"cache": str(cache_dir()), "state": str(state_dir()), "runs": runs}


def _runtime(backbone: str) -> dict[str, Any]:
    from finepoint.errors import FinepointError
    from finepoint.models.backbones import resolve_backbones
    from finepoint.models.choice import candidates, choose_runtime
    from finepoint.models.runtimes import cpu_has_bf16

    found: dict[str, Any] = {"candidates": candidates(), "cpu_has_bf16": cpu_has_bf16()}
    try:
        (resolved,) = resolve_backbones([backbone])
        return {**found, **choose_runtime(resolved).to_json()}
    except FinepointError as error:
        return {**found, "error": str(error)}
