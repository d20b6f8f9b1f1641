"""Time of phases on the GPU, by events in its stream: read when they are over, and never waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

# What the GPU does for a training step; in other phases it is given nothing.
DEVICE_PHASES = ("copy", "forward", "backward", "optimizer")


class Event(Protocol):
    """What is needed of `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> None:
        """Put it into the current stream."""

    def query(self) -> bool:
        """Return whether the stream has come to it."""

    def elapsed_time(self, end_event: Any) -> Any:
        """Return the milliseconds from it to a later one."""


class DeviceClock:
    """Puts an event before and after each phase, and gives out how long the GPU took between them.

    Args:
        event: makes an event.
        may_record: whether events can be put into the stream now; not while a CUDA graph is being captured.
    """

    def __init__(self, event: Callable[[], Event], may_record: Callable[[], bool] = lambda: True) -> None:
        self._event, self._may_record = event, may_record
        self._began: tuple[str, Event] | None = None
        self._pending: deque[tuple[str, Event, Event]] = deque()
        self._spare: list[Event] = []

    def enter(self, phase: str) -> None:
        """Say that what is given to the GPU from now on belongs to a phase; what is nested is the outer one's."""
        if self._began is None and phase in DEVICE_PHASES and self._may_record():
            self._began = phase, self._recorded()

    def leave(self, phase: str) -> None:
        """Say that the phase is over on the host."""
        if self._began is not None and self._began[0] == phase:
            if self._may_record():
                self._pending.append((*self._began, self._recorded()))
            self._began = None

    def leave_all(self) -> None:
        """Say that no phase goes on."""
        if self._began is not None:
            self.leave(self._began[0])

    def take(self) -> dict[str, float]:
        """Return the seconds of the phases that have ended on the GPU since the last time."""
        seconds: dict[str, float] = {}
        while self._pending and self._pending[0][2].query():
            phase, began, ended = self._pending.popleft()
            seconds[phase] = seconds.get(phase, 0.0) + began.elapsed_time(ended) / 1000
            self._spare += [began, ended]
        return seconds

    def _recorded(self) -> Event:
        event = self._spare.pop() if self._spare else self._event()
        event.record()
        return event


def cuda_clock() -> DeviceClock:
    """Return a clock for this process's CUDA device."""
    import torch

    return DeviceClock(
        lambda: torch.cuda.Event(enable_timing=True),  # type: ignore[no-untyped-call]
        lambda: not torch.cuda.is_current_stream_capturing(),
    )
