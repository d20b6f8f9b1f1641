"""What the debugger's rules say of a run's final training: judged once, then read for `summary.json` and the report."""

from __future__ import annotations

from typing import Any

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.checking import check_recording
from finepoint.engines.debugging import RESULTS, read_results
from finepoint.errors import NotFoundError
from finepoint.files import write_json
from finepoint.runs.folder import RunFolder
from finepoint.runs.listener import Listener


def judge_training(folder: RunFolder, listener: Listener) -> None:
    """Judge the recording of a run's training by every rule; leave the results in its `rule-output/`."""
    try:
        found = check_recording(Recording.open(folder.training))
    except NotFoundError:
        listener.note("The training left no recording here, so that the debugger's rules could not judge it")
        return
    write_json(folder.training / RESULTS, [result.to_json() for result in found])


def debugger_summary(folder: RunFolder) -> dict[str, Any] | None:
    """Return the `debugger` object of `summary.json`; None where the training was not recorded."""
    findings = read_results(folder.training)
    if not findings:
        return None
    try:
        recording = Recording.open(folder.training)
    except NotFoundError:
        return {"findings": findings, "overhead_fraction": None, "notes": ["the recording is no longer there"]}
    costs = [fact["fraction"] for fact in recording.facts("overhead")]
    return {"findings": findings, "overhead_fraction": costs[-1] if costs else None, "notes": recording.notes}
