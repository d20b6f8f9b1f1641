"""Segments: the sealed files that a recording consists of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

FORMAT = "finepoint-recording"
VERSION = 1

Load = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Frame:
    """Values of the same series at several steps.

    Args:
        mode: its name.
        keys: (name, reduction) of each column.
        name: of its arrays in the segment.
    """

    mode: str
    keys: tuple[tuple[str, str], ...]
    name: str


@dataclass(frozen=True)
class Segment:
    """One sealed file, or what would be in it.

    Args:
        rank: of the process that wrote it.
        started: when that process began, in seconds since 1970.
        frames: of values.
        tensors: (name, mode, step, global step) of each whole tensor.
        facts: JSON records.
        load: returns an array of it.
    """

    rank: int
    started: float
    frames: tuple[Frame, ...]
    tensors: tuple[tuple[str, str, int, int], ...]
    facts: tuple[dict[str, Any], ...]
    load: Load

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], rank: int, started: float
    ) -> Segment:
        """Return the segment of a writer that keeps it in memory."""
        return _parse(metadata, rank, started, arrays.__getitem__)


def read_segment(path: Path) -> Segment | None:
    """Return the segment in a file, its arrays still on disk; None where it is damaged or not of this format."""
    try:
        rank, started, _ = path.parent.name.removeprefix("rank").split("-")
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT or int(metadata["version"]) > VERSION:
            return None
        return _parse(metadata, int(rank), int(started) / 1000, _loader(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _loader(path: Path) -> Load:
    def load(name: str) -> np.ndarray:
        with safe_open(path, framework="np") as file:
            array: np.ndarray = file.get_tensor(name)
            return array

    return load


def _parse(metadata: Mapping[str, str], rank: int, started: float, load: Load) -> Segment:
    frames = tuple(
        Frame(frame["mode"], tuple((name, reduction) for name, reduction in frame["keys"]), f"frame{number}")
        for number, frame in enumerate(json.loads(metadata["frames"]))
    )
    tensors = tuple((name, mode, step, at) for name, mode, step, at in json.loads(metadata["tensors"]))
    return Segment(rank, started, frames, tensors, tuple(json.loads(metadata["facts"])), load)
