"""Tables that grow by sealed segments: a writer renames each into place, so that readers never see half a one."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from finepoint.files import write_bytes

# A kill loses at most what was added since the last seal.
SEAL_SECONDS = 5.0
# A job that is killed early leaves something too: the first seals are 0.5, 1, 2 and 4 s after the beginning.
_FIRST_PAUSES = (0.5, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Table:
    """Rows in order of time.

    Args:
        columns: name to float64 [rows]; NaN where a row had no such value.
        notes: what the writers noted beside their rows, later ones over earlier ones.
    """

    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column; NaN in every row where nobody wrote one of that name."""
        found = self.columns.get(name)
        return np.full(len(self), np.nan) if found is None else found

    def named(self, prefix: str) -> list[str]:
        """Return the names of the columns that begin with `prefix`, in order of the numbers in them."""
        names = [name for name in self.columns if name.startswith(prefix)]
        return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in name.split("/")])

    def where(self, mask: np.ndarray) -> Table:
        """Return the rows for which `mask` is true."""
        return Table({name: values[mask] for name, values in self.columns.items()}, self.notes)


class TableWriter:
    """Appends rows and seals them into segments.

    Args:
        folder: where segments go, `<writer>-<number>.safetensors`.
        writer: a name that no other writer of this folder has, such as a process's number.
        seal_seconds: how long a row waits at most before it is on disk.
    """

    def __init__(self, folder: Path, writer: str, *, seal_seconds: float = SEAL_SECONDS) -> None:
        self._folder, self._writer, self._seal_seconds = folder, writer, seal_seconds
        self._rows: list[Mapping[str, float]] = []
        self._notes: dict[str, Any] = {}
        self._number = 0
        self._sealed_at = time.monotonic()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def seal_in_time(self) -> None:
        """Seal every few seconds, at first sooner, from a thread beside, until `close`.

        Rows come late where the process hangs.
        """
        threading.Thread(target=self._seal_until_closed, name="finepoint-seal", daemon=True).start()

    def close(self) -> None:
        """Seal, and end the thread beside."""
        self._closed.set()
        self.seal()

    def append(self, *rows: Mapping[str, float]) -> None:
        """Add rows; each has a `time` in seconds since the epoch."""
        with self._lock:
            self._rows += rows
        if time.monotonic() - self._sealed_at >= self._seal_seconds:
            self.seal()

    def note(self, name: str, value: Any) -> None:
        """Note a JSON value beside the rows of the open segment."""
        with self._lock:
            self._notes[name] = value

    def seal(self) -> None:
        """Write the open segment, if it holds anything."""
        with self._lock:
            self._sealed_at = time.monotonic()
            if not self._rows and not self._notes:
                return
            names = list(dict.fromkeys(name for row in self._rows for name in row))
            columns = {name: np.array([row.get(name, np.nan) for row in self._rows], np.float64) for name in names}
            metadata = {"notes": json.dumps(self._notes), "pid": str(os.getpid())}
            write_bytes(self._folder / f"{self._writer}-{self._number:06d}.safetensors", save(columns, metadata))
            self._number += 1
            self._rows, self._notes = [], {}

    def _seal_until_closed(self) -> None:
        for pause in itertools.chain(_FIRST_PAUSES, itertools.repeat(self._seal_seconds)):
            if self._closed.wait(min(pause, self._seal_seconds)):
                return
            with contextlib.suppress(OSError):  # a full disk is told where rows are written
                self.seal()


def read_table(folder: Path) -> Table:
    """Return the rows of all sealed segments of all writers, by `time`.

    A folder that is not there is an empty table. A segment that is not readable is left out and named in the
    note `unreadable`.
    """
    parts: list[dict[str, np.ndarray]] = []
    notes: dict[str, Any] = {}
    unreadable = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as segment:
                parts.append({name: segment.get_tensor(name) for name in segment.keys()})  # noqa: SIM118 - no mapping
                notes |= json.loads((segment.metadata() or {}).get("notes", "{}"))
        except (SafetensorError, OSError, ValueError):
            unreadable.append(path.name)
    if unreadable:
        notes["unreadable"] = unreadable
    return Table(_joined([part for part in parts if part]), notes)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys(name for part in parts for name in part))
    joined = {
        name: np.concatenate([part.get(name, np.full(len(next(iter(part.values()))), np.nan)) for part in parts])
        for name in names
    }
    if "time" in joined:
        order = np.argsort(joined["time"], kind="stable")
        joined = {name: values[order] for name, values in joined.items()}
    return joined
