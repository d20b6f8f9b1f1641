"""The verdict and what to type next, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finepoint.cli.output import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finepoint.runs.workflow import Run
    from finepoint.serving.client import Endpoint

_COLOURS = {"good": "green", "fair": "yellow", "poor": "red", "unusable": "red"}
_MARKS = {"error": "[red]✗[/]", "warning": "[yellow]![/]", "info": "[dim]·[/]"}


def verdict_panel(summary: Mapping[str, Any]) -> RenderableType:
    """Return the verdict of a summary: how good, how sure, what to mend."""
    from rich.panel import Panel

    verdict = summary["verdict"]
    lines = [f"[bold]{plain(verdict['headline'])}[/]", *map(plain, verdict["sentences"])]
    if verdict["findings"]:
        lines += ["", "[bold]What to look at first[/]", *finding_lines(verdict["findings"])]
    return Panel("\n".join(lines), title=verdict["level"], border_style=_COLOURS[verdict["level"]], title_align="left")


# What these are about is listed file by file below them.
_LISTED = ("UnreadableImages", "OtherFiles", "SameImageInTwoSplits", "UnusedFolders")


def finding_lines(findings: Sequence[Mapping[str, Any]], *, examples: bool = False) -> list[str]:
    """Return a line or two for each finding, and one for each example where `examples` are wanted."""
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding['severity']]} {plain(finding['message'])}")
        if examples and finding["name"] not in _LISTED:
            lines += [f"    [dim]{plain(example)}[/]" for example in finding["evidence"].get("examples", [])]
        if finding["remedy"]:
            lines.append(f"  [dim]→ {plain(finding['remedy'])}[/]")
    return lines


def next_commands(run: Run, endpoint: Endpoint | None) -> RenderableType:
    """Return where things are and what to type next."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row("[dim]report[/]", plain(run.report))
    table.add_row("[dim]model[/]", plain(run.model))
    if endpoint is None:
        table.add_row("[dim]deploy[/]", f"finepoint deploy {plain(run.folder.path)}")
    else:
        table.add_row("[dim]endpoint[/]", f"{plain(endpoint.name)} at {plain(endpoint.url)}")
        table.add_row("[dim]query[/]", f"finepoint query {plain(endpoint.name)} IMAGE.jpg")
    table.add_row(
        "[dim]int8[/]",
        f"finepoint quantise {plain(run.folder.path)} --out {plain(run.folder.name)}-int8.tar.gz "
        "[dim](kept only where it is faster here and as good on validation images)[/]",
    )
    return table
