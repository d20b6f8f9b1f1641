"""Showing how a run goes on: live in a terminal, as plain lines elsewhere. All of it on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from finepoint.cli.output import messages, say
from finepoint.runs.listener import Listener
from finepoint.tuning.state import StudyState
from finepoint.tuning.table import trial_line, trial_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

_WHAT = {"check": "checked", "features": "embedded", "predict": "classified"}
_ROWS = 12
_PLAIN_SECONDS = 5.0


class LiveListener(Listener):
    """Shows progress bars and the table of trials in a terminal, and plain lines where there is none.

    A context manager: what is live is wiped or left as it is at the end.
    """

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._display: Any = None
        self._progress: Progress | None = None
        self._task: tuple[str, int, Any] | None = None
        self._said_at = 0.0
        self._trials: set[tuple[int, int]] = set()
        self._studied: StudyState | None = None

    def __enter__(self) -> LiveListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_display()

    def step(self, name: str, text: str) -> None:
        self._end_display()
        if self._live:
            messages().print(f"[bold]{text}[/]")
        else:
            say(text)

    def note(self, text: str) -> None:
        say(text)

    def progress(self, what: str, done: int, total: int) -> None:
        if what in ("download", "extract"):
            self._fetched(what, done, total)
        elif self._live:
            self._bar(what, done, total)
        elif done == total or time.monotonic() - self._said_at > _PLAIN_SECONDS:
            self._said_at = time.monotonic()
            say(f"  {done:,} of {total:,} images {_WHAT[what]}")

    def _fetched(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._said_at < _PLAIN_SECONDS and (what == "extract" or done != total):
            return
        self._said_at = time.monotonic()
        if what == "download":
            share = f" of {total / 1e6:,.1f}" if total else ""
            say(f"  {done / 1e6:,.1f}{share} MB downloaded")
        else:
            say(f"  {done:,} files extracted")

    def study(self, state: StudyState) -> None:
        self._studied = state
        if self._live:
            self._show(trial_table(state, rows=_ROWS))
            return
        for trial in state.trials:
            if trial.status != "running" and (trial.number, trial.attempts) not in self._trials:
                self._trials.add((trial.number, trial.attempts))
                say("  " + trial_line(state, trial))

    def epoch(self, record: Mapping[str, Any]) -> None:
        say(
            f"  epoch {record['epoch']}: train loss {record['train_loss']:.4f}, "
            f"valid loss {record['valid_loss']:.4f}, valid accuracy {100 * record['valid_accuracy']:.1f} %"
        )

    def _bar(self, what: str, done: int, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._progress is None or self._task is None or self._task[:2] != (what, total):
            self._end_display()
            self._progress = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("images, {task.fields[rate]:.0f} a second"),
                TimeRemainingColumn(),
                console=messages(),
            )
            task = self._progress.add_task(_WHAT[what], total=total, rate=0.0)
            self._task = (what, total, task)
            self._progress.start()
        self._progress.update(self._task[2], completed=done, rate=self._progress.tasks[0].speed or 0.0)

    def _show(self, shown: RenderableType) -> None:
        from rich.live import Live

        if self._progress is not None:
            self._end_display()
        if self._display is None:
            self._display = Live(console=messages(), auto_refresh=False)
            self._display.start()
        self._display.update(shown, refresh=True)

    def _end_display(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._display is not None:
            self._display.stop()
        self._progress = self._display = self._task = None
