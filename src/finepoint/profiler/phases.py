"""A clock that gives every moment of a process to one phase, so that the phases of a row add up to its seconds.

Phases nest: what is entered last gets the time. Rows are a training step each, or an evaluation batch, or what lay
between; steps too short to be worth a row share one, and most of those too short to be watched are passed over.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from enum import IntEnum

from finepoint.profiler.passing import LONGEST_PASSED_SECONDS, WATCHED_ROWS, PassedRows, Stretch, Usual, grouped

PHASES = ("data_wait", "copy", "forward", "backward", "optimizer", "evaluation", "checkpoint", "hook", "other")
STARTUP_PHASES = ("import", "weights", "data_listing", "other")
# Steps shorter than this are added up: a row costs some microseconds, which a step of half a millisecond would feel.
SHORTEST_ROW_SECONDS = 0.02
# Less than this is no time at all.
_CLOCK_SECONDS = 1e-9
_LABELS = ("time", "mode", "loader", "window", "part")


class Mode(IntEnum):
    """What a row is about; the number is its `mode`."""

    TRAIN = 0
    EVALUATION = 1
    BETWEEN = 2
    STARTUP = 3


class PhaseClock:
    """Divides time among phases and writes rows.

    Args:
        write: takes each finished row.
        started_at: when the process started, in seconds since the epoch.
        clock: seconds that never go back.
        cpu_clock: processor seconds of this process.
        main_clock: processor seconds of the thread that computes.
        hook_clock: seconds that observers have worked so far; they are `hook`, whatever phase they worked in, and
            `recorded`.
        first: the phase that the time since the start belongs to, until it is left.

    `loader` is the number of the loader that batches come from, `window` whether torch.profiler runs, `part` the number
    of the part of a program of ours (-1 in a script); all are noted in each row. `stretches` counts those passed over.
    """

    def __init__(
        self,
        write: Callable[[dict[str, float]], None],
        started_at: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
        main_clock: Callable[[], float] = time.thread_time,
        hook_clock: Callable[[], float] = lambda: 0.0,
        first: str = "other",
    ) -> None:
        self._write, self._clock, self._hook_clock = write, clock, hook_clock
        self._cpu_clock, self._main_clock = cpu_clock, main_clock
        self._hooked = hook_clock()
        self._epoch = time.time() - clock()
        self._stack = ["other", first]
        self._seconds: dict[str, float] = {}
        self._last = self._row_began = started_at - self._epoch
        self._cpu = self._main = 0.0
        self._waiting: tuple[float, float] | None = None
        self._pending: dict[str, float] | None = None
        self.transitions = 0
        self.in_loop = False
        self.loader = self.part = -1
        self.window = False
        self._counts = _no_counts()
        self._ended: dict[str, float] = {}
        self._whole, self._watched, self.stretches = True, 0, 0
        self._passed: Stretch | None = None
        self._usual: defaultdict[tuple[float, ...], Usual] = defaultdict(Usual)

    @property
    def phase(self) -> str:
        """The phase that gets the time now."""
        return self._stack[-1]

    @property
    def only_waited(self) -> bool:
        """Whether nothing was computed with the batch that the row began with."""
        counts = self._counts
        return counts["batches"] > 0 and not (counts["forwards"] or counts["backwards"] or counts["steps"])

    def enter(self, phase: str) -> None:
        """Give the time from now on to `phase`, until `leave`."""
        self._charge()
        self._stack.append(phase)

    def leave(self, phase: str) -> None:
        """Go back to the phase before; what was entered inside and not left, by an exception, is left too."""
        if phase not in self._stack:
            return
        self._charge()
        while self._stack.pop() != phase:
            pass

    def leave_all(self) -> None:
        """Leave whatever was entered, as is due where a call that raised has not left it."""
        self._charge()
        del self._stack[1:]

    def wait(self) -> None:
        """Begin to wait for a batch."""
        self.enter("data_wait")
        self._waiting = self._cpu_clock(), self._main_clock()

    def got_batch(self, size: int) -> None:
        """End the waiting for a batch of `size`."""
        self.end_wait()
        self._counts["batches"] += 1
        self._counts["samples"] += size

    def end_wait(self) -> None:
        """End the waiting, though no batch may have come of it."""
        self.leave("data_wait")
        if self._waiting is not None:
            cpu, main = self._waiting
            self._counts["data_wait_cpu"] += self._cpu_clock() - cpu
            self._main += self._main_clock() - main
            self._waiting = None

    def count(self, name: str, by: float = 1.0) -> None:
        """Add to one of the row's counts: `steps`, `backwards`, `forwards`, `syncs`, `sync/PHASE`, `gpu/PHASE`..."""
        self._counts[name] = self._counts.get(name, 0.0) + by

    def boundary(self) -> None:
        """End a row here, if anything happened in it."""
        self._charge()
        if not self.in_loop:
            self._finish(Mode.STARTUP)
            self.in_loop = True
        elif self._counts["steps"] or self._counts["backwards"]:
            # Micro-batches of a step that is not complete yet are rows without a step.
            self._finish(Mode.TRAIN)
        elif self._counts["forwards"]:
            self._finish(Mode.EVALUATION)
        else:
            self._finish(Mode.BETWEEN)
        self._charge("hook")

    def skip(self) -> None:
        """Begin the row anew: the time since it began is in another process's rows."""
        self._last = self._row_began = self._clock()
        self._cpu, self._main, self._hooked = self._cpu_clock(), self._main_clock(), self._hook_clock()
        self._seconds, self._counts = {}, _no_counts()

    def may_pass(self) -> bool:
        """Learn from the row that has just ended, and return whether rows like it may be passed over."""
        row = self._ended
        if not row or row["mode"] not in (Mode.TRAIN, Mode.EVALUATION) or row["saves"]:
            return False
        usual = self._usual_of(row)
        watched = {name: value for name, value in row.items() if name not in _LABELS}
        usual.learn(watched)
        self._watched += 1
        self._charge("hook")
        return row["seconds"] < LONGEST_PASSED_SECONDS and usual.knows(watched) and self._watched >= WATCHED_ROWS

    def pass_over(self, *, loader: bool) -> Stretch:
        """Pass over the rows from here, a boundary, until `watch`; return what is to be told of them.

        Args:
            loader: whether a row begins with a batch; else with the end of the step before.
        """
        typical = self._usual_of(self._ended).typical
        self._passed = Stretch(self._last, loader=loader, before=self.stretches, typical=typical)
        self._watched = 0
        self.stretches += 1
        return self._passed

    def watch(self, now: float, *, computed: bool = True) -> None:
        """Watch again what was passed over, from the middle of a row or its beginning.

        From `now` on time is given to `hook`, until it is left: to begin again takes some.

        Args:
            now: seconds of the clock.
            computed: whether the row in whose middle that is has computed with its batch.
        """
        passed, self._passed = self._passed, None
        if passed is None:
            return
        rows = passed.rows(now)
        self.transitions += len(rows.began)
        cpu, main, observed = self._cpu_clock(), self._main_clock(), self._hook_clock()
        whole = max(now - self._row_began, _CLOCK_SECONDS)
        cpu_share, hook_share = (cpu - self._cpu) / whole, (observed - self._hooked) / whole
        labels = {name: self._ended[name] for name in _LABELS if name != "time"}

        usual = self._usual_of(labels)
        rows = usual.as_watched(rows)

        def columns(group: PassedRows) -> dict[str, float]:
            return _no_counts() | usual.columns(group, hook_share)

        for group in grouped(rows.where(slice(-1)), LONGEST_PASSED_SECONDS):
            row = columns(group) | labels | {"time": self._epoch + float(group.began[0])}
            self._put(row | {"cpu": cpu_share * row["seconds"]})
        found = columns(rows.where(slice(-1, None)))
        began, waited = float(rows.began[-1]), float(rows.waited[-1])
        self._row_began, self._last, self._hooked = began, now, observed
        self._cpu = cpu - cpu_share * (now - began)
        self._main = main - found.get("main_cpu", 0.0)
        phases = [name for name in found if name.startswith("phase/")]
        self._seconds = {name.removeprefix("phase/"): found[name] for name in phases}
        # In a loop with a loader its step is over, as far as is known, unless it has only waited so far.
        done = computed and passed.loader and now - began - waited > _CLOCK_SECONDS
        self._counts = {name: found[name] if done else 0.0 for name in _no_counts()}
        self._stack.append("hook")
        # What is taken from others is not learned from.
        self._whole = now - began < _CLOCK_SECONDS

    def close(self) -> None:
        """End the last row, and write what is pending."""
        self._stack = ["other"]
        self.boundary()
        if self._pending is not None:
            self._write(self._pending)
            self._pending = None

    def _charge(self, phase: str | None = None) -> None:
        now = self._clock()
        phase = phase or self._stack[-1]
        spent = now - self._last
        hooked = self._hook_clock() - self._hooked
        if hooked:
            self._hooked += hooked
            hooked = min(hooked, spent)
            self._seconds["hook"] = self._seconds.get("hook", 0.0) + hooked
            self._counts["recorded"] += hooked
        self._seconds[phase] = self._seconds.get(phase, 0.0) + spent - hooked
        self._last = now
        self.transitions += 1

    def _finish(self, mode: Mode) -> None:
        cpu, main = self._cpu_clock(), self._main_clock()
        seconds = self._last - self._row_began
        row = {
            "time": self._epoch + self._row_began,
            "mode": float(mode),
            "seconds": seconds,
            "longest": seconds,
            "cpu": cpu - self._cpu,
            "main_cpu": max(main - self._main, 0.0),
            "loader": float(self.loader),
            "window": float(self.window),
            "part": float(self.part),
            **{f"phase/{name}": spent for name, spent in self._seconds.items()},
            **self._counts,
        }
        self._row_began, self._cpu, self._main = self._last, cpu, main
        self._seconds, self._counts = {}, _no_counts()
        self._ended, self._whole = row if self._whole else {}, True
        self._put(row)

    def _put(self, row: dict[str, float]) -> None:
        if self._pending is not None and self._joins(self._pending, row):
            for name, value in row.items():
                if name not in _LABELS and name != "longest":
                    self._pending[name] = self._pending.get(name, 0.0) + value
            self._pending["longest"] = max(self._pending["longest"], row["longest"])
            return
        if self._pending is not None:
            self._write(self._pending)
        self._pending = row

    def _usual_of(self, labels: Mapping[str, float]) -> Usual:
        return self._usual[tuple(labels[name] for name in _LABELS if name != "time")]

    @staticmethod
    def _joins(pending: dict[str, float], row: dict[str, float]) -> bool:
        alike = all(pending[name] == row[name] for name in ("mode", "loader", "window", "part"))
        # A slow step among fast ones stays by itself, or nobody would see that there was one.
        short = max(pending["seconds"], row["seconds"]) < SHORTEST_ROW_SECONDS
        return alike and row["mode"] != Mode.STARTUP and short


def seconds_per_moment() -> float:
    """Return what giving time to a phase costs here, measured."""
    clock = PhaseClock(lambda row: None, time.time())
    began = time.perf_counter()
    for _ in range(200):
        clock.enter("forward")
        clock.leave("forward")
    return (time.perf_counter() - began) / 400


def _no_counts() -> dict[str, float]:
    return dict.fromkeys(
        (
            "steps",
            "backwards",
            "forwards",
            "batches",
            "samples",
            "data_wait_cpu",
            "frozen_forward",
            "syncs",
            "saves",
            "recorded",
        ),
        0.0,
    )
