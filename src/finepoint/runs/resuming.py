"""Going on with a run that was interrupted, or that is to do more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from finepoint.data.dataset import DataSet
from finepoint.errors import ConfigurationError, InputError
from finepoint.files import read_json
from finepoint.runs.folder import RunFolder
from finepoint.runs.listener import Listener
from finepoint.runs.options import RunOptions
from finepoint.runs.steps import KINDS, STEPS, outputs


def resume(folder: RunFolder, kind: str, options: RunOptions, listener: Listener) -> RunOptions:
    """Return the options to go on with: the run's own, except that it may tune longer, or train what was only tuned.

    A step whose files are gone or damaged is done again, and with it those that follow. A run that failed before its
    first trial or epoch (a backbone's name was mistyped, say) takes any settings.

    Args:
        folder: the run's.
        kind: what is asked for now: `run`, `tune` or `train`.
        options: likewise.
        listener: is told what is done already.

    Raises:
        InputError: `run.json` or `data.json` is damaged; all else was made from what they say.
        ConfigurationError: the run was made with other settings.
    """
    record = folder.read()
    _drop_lost_steps(folder, record)
    before = RunOptions.from_json(record["options"])
    differing = before.differences(options)
    if kind != record["kind"]:
        # `train --run NAME` after `tune` takes over what was tuned; settings that it did not name are the run's.
        default = RunOptions(path=options.path)
        differing = [key for key in differing if getattr(options, key) != getattr(default, key)]
        options = replace(before, max_jobs=options.max_jobs if "max_jobs" in differing else before.max_jobs)
    longer = differing == ["max_jobs"] and options.max_jobs > before.max_jobs
    if differing and not _has_begun(folder):
        record["steps"].clear()
    elif differing and not longer:
        raise ConfigurationError(
            f"run {folder.name} was made with another {', '.join(differing)}; "
            "repeat its command as it was, or give another --run to begin anew"
        )
    if longer:
        record["steps"].pop("tune", None)
    steps = KINDS[kind]
    missing = next((place for place, name in enumerate(steps) if name not in record["steps"]), len(steps))
    for name in steps[missing:]:
        record["steps"].pop(name, None)
    done = list(record["steps"])
    listener.note(f"Going on with run {folder.name}; done already: {', '.join(done) or 'nothing'}")
    record |= {"options": options.to_json(), "kind": _wider(record["kind"], kind), "status": "running"}
    record.pop("failure", None)
    folder.write(record)
    return options


def _has_begun(folder: RunFolder) -> bool:
    """Return whether there is a trial or an epoch that the settings of a run have shaped."""
    return any(any((job / "checkpoints").glob("*.*")) for job in (folder.tuning, folder.training))


def _drop_lost_steps(folder: RunFolder, record: dict[str, Any]) -> None:
    steps = record["steps"]
    if "check" in steps:
        DataSet.load(folder.data)
    lost = False
    for name in [name for name in STEPS if name in steps]:
        lost = lost or not all(_is_whole(path) for path in outputs(folder)[name])
        if name == "package" and not lost:
            lost = folder.model.stat().st_size != record["model"]["bytes"]
        if lost:
            del steps[name]


def _is_whole(path: Path) -> bool:
    if path.suffix != ".json":
        return path.is_file()
    try:
        read_json(path)
    except InputError:
        return False
    return True


def _wider(before: str, now_asked: str) -> str:
    return "run" if "run" in (before, now_asked) else now_asked
