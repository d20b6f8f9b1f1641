"""`finepoint runs`: what was run."""

from __future__ import annotations

from typing import Any

from finepoint.cli.arguments import Json, RunsDir

# What is not known of a run whose files are damaged.
_UNKNOWN = ("kind", "started_at", "backbone", "accuracy", "accuracy_low", "accuracy_high")


def command(runs_dir: RunsDir = None, json: Json = False) -> None:
    """List the runs and the jobs, the latest first.

    Examples:

        finepoint runs

        finepoint runs --runs-dir elsewhere/ --json
    """
    from finepoint.cli.output import percent, plain, print_json, show
    from finepoint.engines.jobs import list_jobs
    from finepoint.runs.folder import list_runs
    from finepoint.runs.folder import runs_dir as default_dir

    directory = default_dir(runs_dir)
    rows = [_row(folder) for folder in list_runs(runs_dir)] + [_job_row(job) for job in list_jobs(directory)]
    rows.sort(key=lambda row: str(row["started_at"]), reverse=True)
    if json:
        print_json(rows)
        return
    if not rows:
        show(f"No runs in {plain(directory)}; `finepoint run PATH` makes one.")
        return
    from rich.table import Table

    table = Table("run", "kind", "status", "started", "accuracy", "95 % interval", "backbone or script", pad_edge=False)
    for row in rows:
        interval = (
            f"{percent(row['accuracy_low'])} to {percent(row['accuracy_high'])}" if row["accuracy"] is not None else ""
        )
        accuracy = percent(row["accuracy"]) if row["accuracy"] is not None else ""
        cells = (row["run"], row["kind"], row["status"], row["started_at"], accuracy, interval, row["backbone"])
        table.add_row(*(plain(cell or "") for cell in cells))
    show(table)


def _row(folder: Any) -> dict[str, Any]:
    from finepoint.errors import InputError
    from finepoint.files import read_json

    try:
        record = folder.read()
        test = read_json(folder.summary).get("test", {}) if folder.summary.is_file() else {}
    except (InputError, AttributeError):
        return {"run": folder.name, "path": str(folder.path), "status": "damaged"} | dict.fromkeys(_UNKNOWN)
    return {
        "run": folder.name,
        "path": str(folder.path),
        "kind": record["kind"],
        "status": record["status"],
        "started_at": record["started_at"],
        "backbone": record["options"]["backbone"],
        "accuracy": test.get("accuracy"),
        "accuracy_low": test.get("accuracy_low"),
        "accuracy_high": test.get("accuracy_high"),
    }


def _job_row(job: Any) -> dict[str, Any]:
    from finepoint.engines.jobs import state_of
    from finepoint.engines.records import tuning_name

    record = state_of(job)
    spec = record.get("spec", {})  # jobs of `finepoint debug run` and `finepoint profile run` say less of themselves
    script = spec.get("entry_point") or spec.get("script", "")
    none = dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"))
    return {
        "run": job.path.name,
        "path": str(job.path),
        "kind": "study" if spec.get("module") or tuning_name(job.path) else "script",
        "status": "running" if record["status"] == "InProgress" else record["status"].lower(),  # as of runs
        "started_at": record["started_at"],
        "backbone": script or spec.get("hyperparameters", {}).get("trial", {}).get("entry_point", ""),
        **none,
        "metrics": record.get("metrics", {}),
    }
