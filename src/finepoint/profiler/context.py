"""The profiler in programs of ours: each tells the clock of its process what it does.

The processes of a run write rows into one folder, the run's; what a process does while another works for it is in the
other's rows only. Where no clock runs, everything here does nothing.

>>> with part("features"), phase("forward"):
...     pass
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from finepoint.profiler.phases import PhaseClock, seconds_per_moment
from finepoint.profiler.segments import TableWriter

T = TypeVar("T")

STEPS, FOLDER_VARIABLE = "steps", "FINEPOINT_PROFILER_DIR"
# What a run is made of, in order; a row's `part` is a place in it.
PARTS = ("check", "features", "tuning", "training", "evaluation", "packing")

_clock: PhaseClock | None = None
_owner = threading.Lock()


@contextmanager
def profiled(
    folder: Path | None, *, whole_process: bool = False, hook_clock: Callable[[], float] = lambda: 0.0
) -> Iterator[None]:
    """Have this process's time given to phases while the block runs.

    Args:
        folder: a run's `profiler-output`; None records nothing.
        whole_process: count the time since the process started too, as start-up.
        hook_clock: seconds that observers have worked so far.
    """
    global _clock
    if folder is None or _clock is not None:
        yield
        return
    writer = TableWriter(folder / STEPS, f"own-{os.getpid()}")
    labels = {"pid": float(os.getpid()), "rank": 0.0}
    clock = PhaseClock(
        lambda row: _unless_full(writer.append, row | labels),
        process_start() if whole_process else time.time(),
        hook_clock=hook_clock,
        first="import",
    )
    clock.leave("import")
    clock.in_loop = not whole_process
    _clock = clock
    try:
        yield
    finally:
        _clock = None
        clock.close()
        facts = {"moments": clock.transitions, "seconds_per_moment": seconds_per_moment()}
        writer.note(f"facts/{os.getpid()}", facts)
        _unless_full(writer.seal)


def profiler_dir(variables: Mapping[str, str] = os.environ) -> Path | None:
    """Return where a job's process is to write its rows; None where it is not profiled."""
    given = variables.get(FOLDER_VARIABLE)
    return Path(given) if given else None


@contextmanager
def part(name: str) -> Iterator[None]:
    """Have the rows that are written while the block runs belong to one of `PARTS`."""
    if _clock is None:
        yield
        return
    clock, before = _clock, _clock.part
    clock.boundary()
    clock.part = PARTS.index(name)
    try:
        yield
    finally:
        clock.boundary()
        clock.part = before


@contextmanager
def elsewhere() -> Iterator[None]:
    """Leave the time of the block out: another process works in it, and writes rows of its own."""
    if _clock is not None:
        _clock.boundary()
    try:
        yield
    finally:
        if _clock is not None:
            _clock.skip()


def phase(name: str) -> AbstractContextManager[None]:
    """Give the time of a block to a phase; see `finepoint.profiler.phases`."""
    return _Phase(_clock, name)


def waited_for(items: Iterable[T]) -> Iterator[T]:
    """Yield items; the time until each is there is `data_wait`."""
    clock, upcoming = _clock, iter(items)
    while True:
        if clock is not None:
            clock.boundary()
        with _Phase(clock, "data_wait"):
            item = next(upcoming, upcoming)
        if item is upcoming:
            return
        yield item  # type: ignore[misc]


class Loop:
    """A training loop that tells what it does; of several that run at once only one has the clock."""

    def __init__(self, clock: PhaseClock | None) -> None:
        self._clock = clock
        self.data_wait, self.forward = _Phase(clock, "data_wait"), _Phase(clock, "forward")
        self.backward, self.optimizer = _Phase(clock, "backward"), _Phase(clock, "optimizer")
        self.evaluation, self.checkpoint = _Phase(clock, "evaluation"), _Phase(clock, "checkpoint")

    def stepped(self, samples: int) -> None:
        """Say that a training step is over, and with how many samples."""
        if self._clock is not None:
            self._clock.count("steps")
            self._clock.count("samples", samples)
            self._clock.boundary()

    def boundary(self) -> None:
        """Say that what follows is none of the step's."""
        if self._clock is not None:
            self._clock.boundary()

    def saved(self) -> None:
        """Say that a checkpoint was written."""
        if self._clock is not None:
            self._clock.count("saves")


@contextmanager
def training_loop() -> Iterator[Loop]:
    """Have a training loop recorded while the block runs, unless another one is."""
    clock = _clock
    if clock is None or not _owner.acquire(blocking=False):
        yield Loop(None)
        return
    try:
        clock.boundary()
        yield Loop(clock)
        clock.boundary()
    finally:
        _owner.release()


class _Phase(AbstractContextManager[None]):
    __slots__ = ("_clock", "_name")

    def __init__(self, clock: PhaseClock | None, name: str) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        if self._clock is not None:
            self._clock.enter(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._clock is not None:
            self._clock.leave(self._name)


def _unless_full(write: Callable[..., None], *arguments: object) -> None:
    """Write, unless the disk does not take it: a profile is no reason to lose the work that it is of."""
    try:
        write(*arguments)
    except OSError:
        return


def process_start() -> float:
    """Return when this process started, in seconds since the epoch."""
    import psutil

    return float(psutil.Process().create_time())
