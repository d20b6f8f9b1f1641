"""How a study's process tells what it does: events for whoever watches, lines for the log. No torch in it."""

from __future__ import annotations

import sys

from finepoint.events import emit
from finepoint.tuning.state import StudyState
from finepoint.tuning.table import trial_line


class Told:
    """Passes a study's state on as events, and puts a line into the log when a trial ends."""

    def __init__(self) -> None:
        self._logged: set[tuple[int, int]] = set()

    def __call__(self, state: StudyState) -> None:
        emit("study", state=state.to_json())
        for trial in state.trials:
            if trial.status != "running" and (trial.number, trial.attempts) not in self._logged:
                self._logged.add((trial.number, trial.attempts))
                sys.stdout.write(trial_line(state, trial) + "\n")
