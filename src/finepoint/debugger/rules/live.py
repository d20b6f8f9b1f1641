"""Judging a recording while it grows, beside the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Thread

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.actions import Action
from finepoint.debugger.rules.base import Rule
from finepoint.debugger.rules.checking import judge
from finepoint.debugger.rules.progress import StalledTrainingRule
from finepoint.debugger.rules.result import RuleResult
from finepoint.errors import JobError, NotFoundError

# Segments are sealed every two seconds; judging thirty rules takes some hundredths of one.
_PERIOD_SECONDS = 2.0


@dataclass
class LiveJudge:
    """Follows a recording; says once of each rule that it fired, and does what is to be done then.

    What a rule said stays said, even if it would not say so of the whole recording.

    Args:
        path: the job's folder, or its `debug-output`; it need not be there yet.
        rules: to judge by.
        actions: by rule's name, what is done when it fires.
        on_finding: is told of each.

    >>> from finepoint.debugger.rules.checking import choose_rules
    >>> LiveJudge(Path("nothing/here"), choose_rules(["Overfit"])).look()
    []
    """

    path: Path
    rules: Sequence[Rule]
    actions: Mapping[str, Sequence[Action]] = field(default_factory=dict)
    on_finding: Callable[[RuleResult], None] = lambda result: None

    def __post_init__(self) -> None:
        self.fired: dict[str, RuleResult] = {}
        self.failures: list[str] = []
        self._recording: Recording | None = None

    def look(self, now: float | None = None) -> list[RuleResult]:
        """Read what has been recorded since, judge, act; return the rules that fired for the first time.

        Args:
            now: seconds since 1970; by default the clock's.
        """
        if self._recording is None:
            try:
                self._recording = Recording.open(self.path)
            except NotFoundError:
                return []
            grown = True
        else:
            grown = self._recording.refresh()
        found = []
        for rule in self.rules:
            timed = isinstance(rule, StalledTrainingRule)
            if rule.name in self.fired or not (grown or timed):
                continue
            asked = replace(rule, now=now or time.time()) if isinstance(rule, StalledTrainingRule) else rule
            result = judge(asked, self._recording)
            if result.fired:
                self.fired[rule.name] = result
                found.append(result)
        for result in found:
            self._act(result)
        return found

    def follow(self, until: Event, period_seconds: float = _PERIOD_SECONDS) -> None:
        """Look again and again until `until` is set, and once after that; for a thread of its own."""
        while not until.wait(period_seconds):
            self.look()
        self.look()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the recording from a thread while the block runs."""
        over = Event()
        thread = Thread(target=self.follow, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def results(self) -> list[RuleResult]:
        """Return what each rule says now, of what was recorded so far; what fired once stays."""
        if self._recording is None:
            reason = "nothing was recorded"
            return [RuleResult(rule.name, "NotApplicable", reason=reason) for rule in self.rules]
        return [self.fired.get(rule.name) or judge(rule, self._recording) for rule in self.rules]

    def _act(self, result: RuleResult) -> None:
        self.on_finding(result)
        for action in self.actions.get(result.rule, ()):
            try:
                action(result)
            except JobError as error:
                self.failures.append(str(error))
