"""What the debugger's rules say of a run's final training: judged once, then read for `summary.json` and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.checking import check_recording
from finepoint.files import read_json, write_json
from finepoint.runs.folder import RunFolder


def judge_training(folder: RunFolder) -> None:
    """Judge the recording of a run's training by every rule; leave the results in its `rule-output/`."""
    recording = Recording.open(folder.training)
    costs = [fact["fraction"] for fact in recording.facts("overhead")]
    findings = [result.to_json() for result in check_recording(recording)]
    write_json(
        folder.training / "rule-output" / "debugger.json",
        {"findings": findings, "overhead_fraction": costs[-1] if costs else None, "notes": recording.notes},
    )


def read_judgement(folder: RunFolder) -> Mapping[str, Any] | None:
    """Return the `debugger` object of `summary.json`; None where the training was not recorded."""
    path = folder.training / "rule-output" / "debugger.json"
    return read_json(path) if path.is_file() else None
