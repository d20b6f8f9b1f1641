"""Reading a recording: of a job that has ended, was killed, or still runs.

docs/recording.md has the format and the catalogue of names and facts.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.segments import Frame, Segment, read_segment
from finepoint.errors import DataError, NotFoundError
from finepoint.files import cache_dir, digest_of
from finepoint.stores import Store, store_of

# A recording elsewhere is looked at for new segments at most so often: readers refresh before each answer.
_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Series:
    """One quantity over the steps of one mode.

    Args:
        name: what it is of: `fc.weight`, `gradient/ResNet_fc.weight`, `CrossEntropyLoss_output_0`.
        mode: TRAIN, EVAL or PREDICT.
        reduction: `mean`, `l2`, ...; `value` where the quantity is one number.
        steps: int64 [n], counted within the mode, ascending.
        values: float64 [n].
        global_steps: int64 [n], counted over all modes.
        times: float64 [n], seconds since 1970.
        ranks: int64 [n], of the process each value comes from.
    """

    name: str
    mode: ModeKeys
    reduction: str
    steps: np.ndarray
    values: np.ndarray
    global_steps: np.ndarray
    times: np.ndarray
    ranks: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class TensorPlace:
    """Where a whole tensor was kept."""

    name: str
    mode: ModeKeys
    step: int
    global_step: int
    rank: int


class Recording:
    """What was recorded of a job, all its processes together.

    Where a process of the same rank went on after another (a resumed job), the later one's value of a step counts.

    Args:
        segments: in the order in which they were sealed, process by process.

    >>> from finepoint.debugger.writing import RecordingWriter
    >>> writer = RecordingWriter(None)
    >>> writer.values(0, ModeKeys.TRAIN, {("fc.weight", "l2"): 3.0})
    >>> writer.recording().names("weight$")
    ['fc.weight']
    """

    def __init__(self, segments: Iterable[Segment], path: Path | None = None) -> None:
        self.path = path
        self._segments: list[Segment] = []
        self._frames: dict[tuple[str, str, str], list[tuple[Segment, Frame, int]]] = {}
        self._tensors: dict[TensorPlace, tuple[Segment, str]] = {}
        self._facts: list[dict[str, Any]] = []
        self._read: set[Path] = set()
        self._sync: Callable[[], None] | None = None
        self._synced_at = 0.0
        self._arrays: dict[tuple[int, str], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.damaged: list[Path] = []
        for segment in segments:
            self._add(segment)

    @classmethod
    def open(cls, path: Path | str, store: Store | None = None) -> Recording:
        """Return the recording of a job.

        Args:
            path: the job's folder, or its `debug-output`; also an address, of which a copy is kept in the cache.
            store: reads the address; by default the one of its scheme.

        Raises:
            NotFoundError: nothing has been recorded there (yet).
        """
        reader = store or store_of(str(path))
        folder = Path(path)
        if reader is not None:
            folder = cache_dir() / "recordings" / digest_of({"address": str(path)})[:32]
            _bring(reader, str(path), folder)
        for inside in (folder, folder / "debug-output", folder / "training" / "debug-output"):
            if any(inside.glob("rank*-*-*/*.safetensors")):
                recording = cls((), inside)
                recording.refresh()
                if reader is not None:
                    recording._sync = functools.partial(_bring, reader, str(path), folder)
                    recording._synced_at = time.monotonic()
                return recording
        raise NotFoundError(f"{path} holds no recording; `finepoint debug run` and finepoint.debugger.Hook write them")

    def refresh(self) -> bool:
        """Read what has been sealed since; return whether there was something."""
        if self.path is None:
            return False
        if self._sync is not None and not self.ended and time.monotonic() - self._synced_at > _SYNC_SECONDS:
            self._sync()
            self._synced_at = time.monotonic()
        found = [path for path in self.path.glob("rank*-*-*/*.safetensors") if path not in self._read]
        for path in sorted(found, key=lambda path: (int(path.parent.name.split("-")[1]), path.name)):
            self._read.add(path)
            segment = read_segment(path)
            if segment is None:
                self.damaged.append(path)
            else:
                self._add(segment)
        return bool(found)

    def names(
        self, regex: str | None = None, *, collection: str | None = None, mode: ModeKeys | None = None
    ) -> list[str]:
        """Return the names of series and whole tensors, sorted.

        Args:
            regex: what is to be found in the name (`re.search`).
            collection: only names of this collection (`weights`, `gradients`, `losses`, ...).
            mode: only what was saved in it.
        """
        kept = {name for name, _, saved in self._frames if mode in (None, ModeKeys.GLOBAL) or saved == mode.name}
        kept |= {place.name for place in self._tensors if mode in (None, ModeKeys.GLOBAL, place.mode)}
        if collection is not None:
            kept &= self.collections.get(collection, set())
        return sorted(name for name in kept if regex is None or re.search(regex, name))

    def reductions(self, name: str) -> list[str]:
        """Return the reductions that a series was saved with."""
        return sorted({reduction for known, reduction, _ in self._frames if known == name})

    def series(
        self, name: str, reduction: str | None = None, mode: ModeKeys = ModeKeys.TRAIN, *, rank: int | None = None
    ) -> Series:
        """Return a series; it is empty where nothing was saved.

        Args:
            name: in full.
            reduction: may be left out where there is only one, or where `value` or `mean` is among them.
            mode: TRAIN, EVAL or PREDICT.
            rank: only this process's values; else all, in the order of steps and ranks.
        """
        chosen = self._default_reduction(name) if reduction is None else reduction
        parts = []
        for segment, frame, column in self._frames.get((name, chosen, mode.name), []):
            if rank is None or segment.rank == rank:
                steps, times, values = self._load(segment, frame)
                parts.append((steps, times, values[:, column].astype(np.float64), np.full(len(steps), segment.rank)))
        if not parts:
            none, nothing = np.zeros(0, np.int64), np.zeros(0)
            return Series(name, mode, chosen, none, nothing, none, nothing, none)
        steps, times, values, ranks = (np.concatenate(part) for part in zip(*parts, strict=True))
        # The last of equal (step, rank) in the order of writing is a resumed job's.
        order = np.lexsort((np.arange(len(steps)), ranks, steps[:, 0]))
        keep = np.ones(len(order), bool)
        keep[:-1] = (np.diff(steps[order, 0]) != 0) | (np.diff(ranks[order]) != 0)
        order = order[keep]
        return Series(name, mode, chosen, steps[order, 0], values[order], steps[order, 1], times[order], ranks[order])

    def facts(self, kind: str | None = None, *, rank: int | None = None) -> list[dict[str, Any]]:
        """Return the records of a kind, or all, in the order of writing; each has `kind, step, mode, time, rank`."""
        return [
            fact
            for fact in self._facts
            if (kind is None or fact["kind"] == kind) and (rank is None or fact["rank"] == rank)
        ]

    def steps(self, mode: ModeKeys = ModeKeys.TRAIN) -> list[int]:
        """Return the steps at which anything was saved in a mode; with GLOBAL the global steps of all modes."""
        if mode is ModeKeys.GLOBAL:
            return sorted({at for known in ModeKeys for at in self.global_steps(known).values()})
        return sorted(self.global_steps(mode))

    def global_steps(self, mode: ModeKeys) -> dict[int, int]:
        """Return the steps at which anything was saved in a mode, each with its global step."""
        found: dict[int, int] = {}
        for segment in self._segments:
            for frame in segment.frames:
                if frame.mode == mode.name:
                    found.update(self._load(segment, frame)[0].tolist())
        found.update((place.step, place.global_step) for place in self._tensors if place.mode is mode)
        return found

    def tensors(self, name: str | None = None, mode: ModeKeys | None = None) -> list[TensorPlace]:
        """Return where whole tensors were kept, by step."""
        kept = (place for place in self._tensors if name in (None, place.name) and mode in (None, place.mode))
        return sorted(kept, key=lambda place: (place.global_step, place.name, place.rank))

    def tensor(self, name: str, step: int, mode: ModeKeys = ModeKeys.TRAIN, *, rank: int | None = None) -> np.ndarray:
        """Return a whole tensor.

        Raises:
            NotFoundError: it was not kept at that step.
        """
        for place in self.tensors(name, mode):
            if place.step == step and rank in (None, place.rank):
                segment, array = self._tensors[place]
                return segment.load(array)
        kept = [place.step for place in self.tensors(name, mode)]
        raise NotFoundError(f"{name} was not kept whole at step {step} of {mode.name}; it was at {kept or 'no step'}")

    @property
    def modes(self) -> list[ModeKeys]:
        """The modes in which anything was saved."""
        saved = {mode for _, _, mode in self._frames} | {place.mode.name for place in self._tensors}
        return [mode for mode in ModeKeys if mode.name in saved]

    @property
    def ranks(self) -> list[int]:
        """The ranks of the processes that wrote."""
        return sorted({segment.rank for segment in self._segments})

    @property
    def collections(self) -> dict[str, set[str]]:
        """The tensor names of each collection."""
        found: dict[str, set[str]] = {}
        for fact in self.facts("collection"):
            found.setdefault(fact["name"], set()).update(fact["tensors"])
        return found

    @property
    def notes(self) -> list[str]:
        """What the recording says of itself: what was not seen, and why values are further apart than asked."""
        return list(dict.fromkeys(fact["text"] for fact in self.facts("note")))

    @property
    def ended(self) -> bool:
        """Whether every process came to its end; not so for one that runs or was killed."""
        return bool(self._segments) and len(self.facts("end")) == len({(s.rank, s.started) for s in self._segments})

    def _add(self, segment: Segment) -> None:
        self._segments.append(segment)
        for frame in segment.frames:
            for column, (name, reduction) in enumerate(frame.keys):
                self._frames.setdefault((name, reduction, frame.mode), []).append((segment, frame, column))
        for number, (name, mode, step, at) in enumerate(segment.tensors):
            place = TensorPlace(name, ModeKeys[mode], step, at, segment.rank)
            self._tensors[place] = (segment, f"tensor{number}")
        self._facts += [{**fact, "rank": segment.rank} for fact in segment.facts]

    def _load(self, segment: Segment, frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = (id(segment), frame.name)
        if place not in self._arrays:
            steps, times, values = (segment.load(f"{frame.name}.{part}") for part in ("steps", "times", "values"))
            self._arrays[place] = (steps, times, values)
        return self._arrays[place]

    def _default_reduction(self, name: str) -> str:
        known = self.reductions(name)
        return next((reduction for reduction in ("value", "mean", *known) if reduction in known), "value")


def _bring(store: Store, address: str, folder: Path) -> None:
    """Copy the segments that are new; segments are sealed, so that one that is there is never another."""
    try:
        store.folder(address, folder, sealed=True)
    except DataError:
        return  # there is nothing yet
