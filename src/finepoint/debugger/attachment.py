"""The attachment: what `finepoint.attaching` calls in each process of a job that is to be recorded."""

from __future__ import annotations

import atexit
import multiprocessing.util
import os
from pathlib import Path

from finepoint.debugger.budget import BUDGET, Budget
from finepoint.debugger.collection import CollectionManager
from finepoint.debugger.observers import observe
from finepoint.debugger.observers.lines import Lines
from finepoint.debugger.observers.processes import rank
from finepoint.debugger.recorder import Recorder
from finepoint.debugger.selection import Selection
from finepoint.debugger.writing import RecordingWriter

NAME = "finepoint.debugger.attachment:attach"
FOLDER_VARIABLE = "FINEPOINT_DEBUG_DIR"
BUDGET_VARIABLE = "FINEPOINT_DEBUG_BUDGET"


def attach() -> None:
    """Record this process, and those forked from it, into the folder that the environment names."""
    current = [_start()]

    def forked() -> None:
        # The parent's recorder is silent here. A fork that trains (a rank) is recorded by one of its own; one that
        # loads data takes no step and leaves nothing.
        current[0] = _start()
        _close_at_end(current[0])

    os.register_at_fork(after_in_child=forked)


def _start() -> Recorder:
    budget = Budget(float(os.environ.get(BUDGET_VARIABLE) or BUDGET))
    recorder = Recorder(
        RecordingWriter(Path(os.environ[FOLDER_VARIABLE]), rank),
        Selection(CollectionManager(), budget=budget),
        discover=True,
    )
    observe(recorder)
    Lines(recorder)
    atexit.register(recorder.close)
    return recorder


def _close_at_end(recorder: Recorder) -> None:
    """A process of `multiprocessing` ends without `atexit`; it has finalizers, which count from its first step on."""
    recorder.on_first_step.append(
        lambda: multiprocessing.util.Finalize(recorder, recorder.close, exitpriority=0) and None
    )
