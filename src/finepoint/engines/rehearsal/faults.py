"""Faults that a test, or a user who rehearses, asks the stand-in for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["throttle", "error", "timeout", "expired", "cut", "capacity", "interrupt"]
# HTTP status and error code of each kind that is an answer.
ANSWERS: dict[str, tuple[int, str, str]] = {
    "throttle": (400, "ThrottlingException", "Rate exceeded"),
    "error": (500, "InternalFailure", "The request processing has failed because of an unknown error"),
    "expired": (403, "ExpiredTokenException", "The security token included in the request is expired"),
}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        operation: `CreateTrainingJob`, `PutObject`, ..., or `*` for every one.
        kind: `throttle`, `error` (500), `expired` (credentials); `timeout` does what was asked and closes the
            connection without an answer; `cut` closes it and does nothing. For CreateTrainingJob also `capacity` (the
            job fails for want of machines) and `interrupt` (a spot machine is taken away once).
        times: so often.
        after: leave the first so many calls alone.
    """

    operation: str
    kind: Kind
    times: int = 1
    after: int = 0


@dataclass
class Faults:
    """The faults that are still to come, and every call that was seen."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    _coming: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        """Ask for a fault."""
        with self._lock:
            self._coming.append({"fault": fault, "after": fault.after, "times": fault.times})

    def clear(self) -> None:
        """Forget the faults that have not come."""
        with self._lock:
            self._coming.clear()

    def see(self, service: str, operation: str) -> Kind | None:
        """Note a call, and return the fault that it meets."""
        with self._lock:
            self.calls.append((service, operation))
            for entry in self._coming:
                if entry["fault"].operation not in ("*", operation) or entry["times"] == 0:
                    continue
                if entry["after"] > 0:
                    entry["after"] -= 1
                    continue
                entry["times"] -= 1
                kind: Kind = entry["fault"].kind
                return kind
        return None
