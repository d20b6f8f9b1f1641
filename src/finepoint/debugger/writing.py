"""Writing a recording: values, tensors and facts go into sealed segments, one writer to a directory.

docs/recording.md has the format and the catalogue of names and facts.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.segments import FORMAT, VERSION, Segment

# A reader is this far behind at most, while steps come; a kill loses no more than that.
SEGMENT_SECONDS = 2.0
# Whole tensors fill a segment sooner: it is held in memory until it is sealed.
SEGMENT_BYTES = 64 << 20

SeriesKey = tuple[str, str]


class RecordingWriter:
    """Writes one process's part of a recording.

    Args:
        folder: the recording's, `debug-output`; this writer makes a directory of its own in it. None keeps the
            recording in memory, for tests of rules: `writer.recording()` reads it.
        rank: this process's, in a job of several; a function where it is known only once something is written.

    >>> writer = RecordingWriter(None)
    >>> for step, loss in enumerate([2.3, 1.9, 1.7]):
    ...     writer.values(step, ModeKeys.TRAIN, {("CrossEntropyLoss_output_0", "mean"): loss})
    >>> writer.fact("optimizer", class_name="Adam")
    >>> recording = writer.recording()
    >>> recording.series("CrossEntropyLoss_output_0", mode=ModeKeys.TRAIN).values.tolist()
    [2.3, 1.9, 1.7]
    """

    def __init__(self, folder: Path | None, rank: int | Callable[[], int] = 0) -> None:
        self._rank = rank
        self.started = time.time()
        self.closed = False
        self._parent = folder
        self._folder: Path | None = None
        self._sealed: list[Segment] = []
        self._notes: set[str] = set()
        self._number = 0
        self._names: dict[tuple[SeriesKey, ...], str] = {}
        self._clear()

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return self._rank() if callable(self._rank) else self._rank

    def settle_rank(self) -> None:
        """Keep the rank that the process has now: at its end it may have left its group."""
        self._rank = self.rank

    def values(
        self, step: int, mode: ModeKeys, values: Mapping[SeriesKey, float], global_step: int | None = None
    ) -> None:
        """Add a value to each of some series.

        Args:
            step: counted within the mode, from 0.
            mode: TRAIN, EVAL or PREDICT.
            values: by (name, reduction), such as `("fc.weight", "l2")`; NaN and infinity are values too.
            global_step: counted over all modes; by default `step`.
        """
        self.row(step, mode, tuple(values), np.array(list(values.values()), np.float64), global_step)

    def row(
        self, step: int, mode: ModeKeys, keys: tuple[SeriesKey, ...], values: np.ndarray, global_step: int | None = None
    ) -> None:
        """Add `values` [k], float32 or float64, to the series of `keys`; as `values`, without a mapping."""
        if not keys:
            return
        frame = self._frames.setdefault((mode, keys, values.dtype.str), [])
        frame.append((step, step if global_step is None else global_step, time.time(), values))
        self._bytes += values.nbytes
        self._added()

    def tensor(self, name: str, step: int, mode: ModeKeys, array: np.ndarray, global_step: int | None = None) -> None:
        """Keep a whole tensor; the array must not be changed afterwards."""
        place = (name, mode.name, step, step if global_step is None else global_step)
        self._tensors.append((place, np.ascontiguousarray(array).reshape(array.shape)))
        self._bytes += array.nbytes
        self._added()

    def fact(self, kind: str, step: int | None = None, mode: ModeKeys | None = None, **values: Any) -> None:
        """Add a JSON record; NaN and infinity in it become the strings `nan`, `inf` and `-inf`."""
        record = {"kind": kind, "step": step, "mode": None if mode is None else mode.name, "time": time.time()}
        self._facts.append(_strict({**record, **values}))
        self._added()

    def note(self, text: str) -> None:
        """Say something about the recording itself, such as what was not seen; the same text is said once."""
        if text not in self._notes:
            self._notes.add(text)
            self.fact("note", text=text)

    def seal(self) -> None:
        """Make what has been added readable, now."""
        if not (self._frames or self._tensors or self._facts):
            return
        if self._parent is not None and self._folder is None:
            self._folder = self._parent / f"rank{self.rank}-{int(self.started * 1000)}-{os.getpid()}"
            self._folder.mkdir(parents=True, exist_ok=True)
        arrays, metadata = self._content()
        if self._folder is None:
            self._sealed.append(Segment.from_arrays(arrays, metadata, self.rank, self.started))
        else:
            _publish(self._folder / f"{self._number:06d}.safetensors", save(arrays, metadata))
        self._number += 1
        self._clear()

    def tick(self) -> None:
        """Seal if the open segment is old enough; called once a step, when all of it has been added."""
        if time.monotonic() - self._opened >= SEGMENT_SECONDS:
            self.seal()

    def close(self) -> None:
        """Seal, and mark the recording as ended; closing twice does nothing."""
        if not self.closed:
            self.fact("end")
            self.seal()
            self.closed = True

    def discard(self) -> None:
        """Close without writing what has not been sealed."""
        self._clear()
        self.closed = True

    def recording(self) -> Any:
        """Return the recording that a writer without a folder has made so far."""
        from finepoint.debugger.recording import Recording

        self.seal()
        return Recording(self._sealed)

    def _clear(self) -> None:
        self._frames: dict[tuple[ModeKeys, tuple[SeriesKey, ...], str], list[tuple[int, int, float, np.ndarray]]] = {}
        self._tensors: list[tuple[tuple[str, str, int, int], np.ndarray]] = []
        self._facts: list[dict[str, Any]] = []
        self._bytes = 0
        self._opened = time.monotonic()

    def _added(self) -> None:
        if self._bytes >= SEGMENT_BYTES:
            self.seal()

    def _names_of(self, keys: tuple[SeriesKey, ...]) -> dict[str, Any]:
        """Return a frame's keys, or the name of a file that has them: most segments repeat the same hundreds."""
        if self._folder is None:
            return {"keys": keys}
        if keys not in self._names:
            text = json.dumps(keys).encode()
            self._names[keys] = hashlib.blake2b(text, digest_size=8).hexdigest()
            _publish(self._folder / f"names-{self._names[keys]}.json", text)
        return {"names": self._names[keys]}

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        arrays, frames = {}, []
        for number, ((mode, keys, _), rows) in enumerate(self._frames.items()):
            frames.append({"mode": mode.name, **self._names_of(keys)})
            arrays[f"frame{number}.steps"] = np.array([row[:2] for row in rows], np.int64)
            arrays[f"frame{number}.times"] = np.array([row[2] for row in rows], np.float64)
            arrays[f"frame{number}.values"] = np.stack([row[3] for row in rows])
        for number, (_, array) in enumerate(self._tensors):
            arrays[f"tensor{number}"] = array
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "frames": json.dumps(frames),
            "tensors": json.dumps([place for place, _ in self._tensors]),
            "facts": json.dumps(self._facts, allow_nan=False),
        }
        return arrays, metadata


def _publish(path: Path, content: bytes) -> None:
    """Write a file and rename it into place: a reader sees it whole.

    It is not synchronised to the disk, which would cost the job milliseconds and guards against a loss of power only.
    """
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


def _strict(value: Any) -> Any:
    """Return `value` with the floats that JSON does not know as strings."""
    if isinstance(value, float):
        return value if np.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, np.generic):
        return _strict(value.item())
    return str(value)
