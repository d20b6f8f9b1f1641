"""What `finepoint debug` prints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from finepoint.cli.output import plain, print_json, results, say, show
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.result import RuleResult
from finepoint.engines.records import in_cloud
from finepoint.errors import NotFoundError

_COLOURS = {"IssuesFound": "bold red", "Error": "yellow", "NotApplicable": "dim", "NoIssuesFound": "green"}


def print_results(found: Sequence[RuleResult]) -> None:
    """Print what rules say: issues with evidence and remedy, then what could not be judged, then what is clean."""
    for item in found:
        if item.fired:
            where = f"step {item.first_step} of {item.mode}"
            show(f"[{_COLOURS[item.status]}]{item.rule}[/] {where}: {plain(item.meaning)}")
            numbers = {name: value for name, value in item.to_json()["evidence"].items() if name != "series"}
            if numbers:
                show("  seen: " + plain(", ".join(f"{name} {value}" for name, value in numbers.items())))
            show(f"  do: {plain(item.remedy)}")
    for item in found:
        if item.status == "Error":
            show(f"[{_COLOURS[item.status]}]{item.rule}: Error[/], no pass: {plain(item.reason)}")
    unjudged = [item for item in found if item.status == "NotApplicable"]
    if unjudged:
        show(f"[dim]Not judged ({len(unjudged)}), which is no pass:[/]")
        for item in unjudged:
            show(f"[dim]  {item.rule}: {plain(item.reason)}[/]")
    clean = [item.rule for item in found if item.passed]
    if clean:
        show(f"[green]No issues ({len(clean)}):[/] {', '.join(clean)}")


def show_recording(recording: Recording, regex: str | None, json: bool) -> None:
    """Print a recording's names, each with modes, steps and its last value."""
    rows = []
    for name in recording.names(regex):
        for mode in recording.modes:
            reductions = recording.reductions(name)
            series = recording.series(name, None, mode)
            whole = recording.tensors(name, mode)
            if len(series) or whole:
                rows.append(
                    {
                        "name": name,
                        "mode": mode.name,
                        "steps": len(series) or len({place.step for place in whole}),
                        "last_step": int(series.steps[-1]) if len(series) else whole[-1].step,
                        "reductions": reductions if len(series) else [],
                        "whole_tensors": len(whole),
                        "last_value": float(series.values[-1]) if len(series) else None,
                    }
                )
    if json:
        for row in rows:
            value = row["last_value"]
            if isinstance(value, float) and value - value != 0:
                row["last_value"] = str(value)
        print_json({"ended": recording.ended, "ranks": recording.ranks, "notes": recording.notes, "series": rows})
        return
    from rich.table import Table

    table = Table("name", "mode", "steps", "last step", "saved", "last value", pad_edge=False)
    for row in rows:
        saved = " ".join(row["reductions"]) if row["reductions"] else "whole"  # type: ignore[arg-type]
        value = "" if row["last_value"] is None else f"{row['last_value']:.6g}"
        table.add_row(plain(row["name"]), str(row["mode"]), str(row["steps"]), str(row["last_step"]), saved, value)
    show(table)
    for note in recording.notes:
        say(f"note: {note}")
    if not recording.ended:
        say("the job has not ended, or was killed")


def open_recording(job: str) -> Recording:
    """Return the recording of a job: a folder, a name, or an address; of a job in AWS as far as it has come.

    Raises:
        NotFoundError: there is none (yet), or no such job.
    """
    if "://" in job:
        return Recording.open(job)
    folder = _folder(job)
    if folder is None:
        raise NotFoundError(f"there is no folder and no job {job!r}; `finepoint runs` lists jobs")
    if not in_cloud(folder):
        return Recording.open(folder)
    from finepoint.engines.sagemaker.training import recordings_of

    address, store = recordings_of(folder)
    try:
        return Recording.open(folder / "debug-output")  # it has come home
    except NotFoundError:
        return Recording.open(f"{address}/debug-output", store)


def follow(job: str, regex: str, period: float) -> None:
    """Print values as they come, until the job ends; where there is no recording yet, wait for one."""
    told: dict[tuple[str, ModeKeys], int] = {}
    recording: Recording | None = None
    console = results()
    try:
        while True:
            if recording is None:
                try:
                    recording = open_recording(job)
                except NotFoundError:
                    if "://" not in job and _folder(job) is None:
                        raise
                    time.sleep(period)
                    continue
            for line in new_lines(recording, regex, told):
                console.print(plain(line))
            if recording.ended:
                return
            time.sleep(period)
            recording.refresh()
    except KeyboardInterrupt:
        return


def _folder(job: str) -> Path | None:
    from finepoint.runs.folder import runs_dir

    return next((path for path in (Path(job), runs_dir() / job) if path.is_dir()), None)


def new_lines(recording: Recording, regex: str, told: dict[tuple[str, ModeKeys], int]) -> list[str]:
    """Return a line for each step that is newer than what was told, and note it as told."""
    rows: dict[tuple[int, str, int], list[str]] = {}
    for name in recording.names(regex):
        for mode in recording.modes:
            series = recording.series(name, None, mode, rank=recording.ranks[0])
            for step, at, value in zip(series.steps, series.global_steps, series.values, strict=True):
                if step > told.get((name, mode), -1):
                    rows.setdefault((int(at), mode.name, int(step)), []).append(f"{name} {value:.6g}")
            if len(series):
                told[name, mode] = int(series.steps[-1])
    return [f"{mode} {step}: {', '.join(parts)}" for (_, mode, step), parts in sorted(rows.items())]
