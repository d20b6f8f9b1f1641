"""The table of trials: live in a terminal, or a line for each where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finepoint.tuning.state import StudyState, TrialRecord

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"completed": "green", "stopped": "yellow", "failed": "red", "running": "cyan"}


def trial_table(state: StudyState, *, rows: int | None = None) -> Table:
    """Return a table of the trials, the best one marked.

    Args:
        state: of the study.
        rows: show only so many: the best, and the latest.
    """
    from rich.table import Table

    names = _names(state)
    best = state.best
    table = Table(title=f"Trials ({len(state.trials)} of {state.max_jobs})", title_justify="left", pad_edge=False)
    table.add_column("#", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column(state.objective, justify="right")
    table.add_column("status")
    trials = list(state.trials)
    if rows is not None and len(trials) > rows:
        latest = trials[-rows:]
        trials = latest if best is None or best in latest else [best, *latest[1:]]
    for trial in trials:
        is_best = best is not None and trial.number == best.number
        table.add_row(
            str(trial.number),
            *(_cell(trial.hyperparameters.get(name)) for name in names),
            "" if trial.value is None else f"{trial.value:.4f}",
            f"[{_STYLES[trial.status]}]{trial.status}[/]" + (" [bold]★ best[/]" if is_best else ""),
            style="bold" if is_best else None,
        )
    return table


def trial_line(state: StudyState, trial: TrialRecord) -> str:
    """Return a trial as a line of plain text."""
    values = " ".join(f"{name}={_cell(trial.hyperparameters.get(name))}" for name in _names(state))
    outcome = f" {state.objective}={trial.value:.4f}" if trial.value is not None else ""
    reason = f": {trial.reason}" if trial.reason else ""
    best = state.best
    mark = " (best so far)" if best is not None and best.number == trial.number else ""
    return f"trial {trial.number}: {values} {trial.status}{outcome or reason}{mark}"


def _names(state: StudyState) -> list[str]:
    return list(dict.fromkeys(name for trial in state.trials for name in trial.hyperparameters))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
