"""Running a script in parts while the debugger watches it, as `finepoint debug run` does from outside."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from finepoint.debugger.budget import Budget
from finepoint.debugger.collection import CollectionKeys, CollectionManager
from finepoint.debugger.observers import observe
from finepoint.debugger.observers.lines import Lines
from finepoint.debugger.recorder import Recorder
from finepoint.debugger.recording import Recording
from finepoint.debugger.selection import DEFAULT_COLLECTIONS, Selection
from finepoint.debugger.writing import RecordingWriter
from scripts.parts import Parts, run

# These scripts' steps take 2 to 30 ms, and their epochs 16 or 32 of them: at the default of 3 % of the time an epoch
# would have one saved step. So recording may take a third of that; a real job has hundreds of longer steps an epoch.
_BUDGET = 0.3


@dataclass
class Watched:
    """What was recorded of a run.

    Args:
        first_epoch: up to the end of the first epoch, its evaluation included.
        whole: of all of it.
        accuracy: in the last evaluation; 0 where the script failed.
        error: what it ended with, or nothing.
        printed: its output.
    """

    first_epoch: Recording
    whole: Recording
    accuracy: float
    error: str
    printed: str


def watch(parts: Parts, folder: Path | None = None) -> Watched:
    """Run a script; what it raises is part of the result.

    Args:
        parts: of the script.
        folder: where the recording goes; by default it stays in memory.
    """
    writer = RecordingWriter(folder)
    selection = Selection(
        CollectionManager(beyond=True), [*DEFAULT_COLLECTIONS, CollectionKeys.LOSSES], budget=Budget(_BUDGET)
    )
    recorder = Recorder(writer, selection, discover=True)
    output = io.StringIO()
    at_first: list[Recording] = []
    given = parts.before_epoch

    def before_epoch(parts: Parts, epoch: int) -> None:
        if epoch == 1:
            recorder.end_step()
            if folder is None:
                at_first.append(writer.recording())
        given(parts, epoch)

    parts.before_epoch = before_epoch
    accuracy, error = 0.0, ""
    with contextlib.redirect_stdout(output):
        observe(recorder)
        Lines(recorder)
        try:
            accuracy = run(parts)
        except (RuntimeError, IndexError, ValueError) as failure:  # what a script with a fault may well end with
            error = f"{type(failure).__name__}: {failure}"
        recorder.close()
    whole = writer.recording() if folder is None else Recording.open(folder)
    return Watched(at_first[0] if at_first else whole, whole, accuracy, error, output.getvalue())
