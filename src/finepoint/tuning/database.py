"""A study as it lies in its SQLite database, and what its trials there come to."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finepoint.errors import ConfigurationError
from finepoint.tuning.state import TrialRecord, TrialStatus

if TYPE_CHECKING:
    import optuna

STUDY_NAME = "finepoint"


def storage(path: Path) -> optuna.storages.BaseStorage:
    """Return Optuna's storage in a file, made if need be.

    Raises:
        ConfigurationError: the file is damaged.
    """
    import optuna

    if path.is_file():
        _check_database(path)
    # A connection of its own for each thread, which waits for the others' writes.
    return optuna.storages.RDBStorage(
        f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}}, skip_compatibility_check=False
    )


def record_of(number: int, attempts: list[optuna.trial.FrozenTrial]) -> TrialRecord:
    """Return a trial's record from all attempts at it; the last one counts."""
    import optuna

    last = max(attempts, key=lambda trial: trial.number)
    states = optuna.trial.TrialState
    statuses: dict[Any, TrialStatus] = {
        states.COMPLETE: "completed",
        states.PRUNED: "stopped",
        states.FAIL: "failed",
    }
    return TrialRecord(
        number=number,
        status=statuses.get(last.state, "running"),
        hyperparameters=last.user_attrs.get("hyperparameters", last.params),
        value=last.value if last.state == states.COMPLETE else None,
        seconds=last.user_attrs.get("seconds", 0.0),
        attempts=last.user_attrs["attempt"],
        epochs=tuple(last.user_attrs.get("epochs", ())),
        reason=last.user_attrs.get("reason", ""),
    )


def busy_seconds(trials: list[optuna.trial.FrozenTrial]) -> float:
    """Return for how long at least one trial ran: of trials side by side a second counts once, pauses not at all."""
    spans = sorted(
        (ended - timedelta(seconds=trial.user_attrs.get("seconds", 0.0)), ended)
        for trial in trials
        if (ended := trial.datetime_complete) is not None
    )
    busy, covered = 0.0, datetime.min
    for began, ended in spans:
        busy += max(0.0, (ended - max(began, covered)).total_seconds())
        covered = max(covered, ended)
    return busy


def _check_database(path: Path) -> None:
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"{path} is damaged ({error}); delete it to begin the study anew") from error
