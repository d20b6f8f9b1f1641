"""Recordings made by hand, for tests of rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording
from finepoint.debugger.writing import RecordingWriter

TRAIN, EVAL = ModeKeys.TRAIN, ModeKeys.EVAL
LOSS = "CrossEntropyLoss_output_0"


class Made:
    """A recording in the making.

    >>> made = Made().series(LOSS, [2.0, 1.0], reduction="mean")
    >>> made.recording().series(LOSS).values.tolist()
    [2.0, 1.0]
    """

    def __init__(self) -> None:
        self.writer = RecordingWriter(None)
        self._at: dict[tuple[ModeKeys, int], int] = {}

    def series(
        self,
        name: str,
        values: Sequence[float],
        *,
        reduction: str = "value",
        mode: ModeKeys = TRAIN,
        steps: Iterable[int] | None = None,
    ) -> Made:
        """Add values at steps 0, 1, ..., or at those given."""
        for step, value in zip(range(len(values)) if steps is None else steps, values, strict=True):
            self.writer.values(step, mode, {(name, reduction): float(value)}, self._global(mode, step))
        return self

    def losses(self, values: Sequence[float], mode: ModeKeys = TRAIN, first: int = 0) -> Made:
        """Add the loss of each batch, and batch sizes of 4."""
        self.series(LOSS, values, reduction="mean", mode=mode, steps=range(first, first + len(values)))
        return self.series("batch_size", [4.0] * len(values), mode=mode, steps=range(first, first + len(values)))

    def tensor(self, name: str, *arrays: Any, mode: ModeKeys = TRAIN) -> Made:
        """Keep whole tensors at steps 0, 1, ..."""
        for step, array in enumerate(arrays):
            self.writer.tensor(name, step, mode, np.asarray(array, np.float32), step)
        return self

    def fact(self, kind: str, step: int | None = None, mode: ModeKeys | None = None, **values: Any) -> Made:
        """Add a fact."""
        self.writer.fact(kind, step, mode, **values)
        return self

    def collection(self, name: str, *tensors: str) -> Made:
        """Say which names belong to a collection."""
        return self.fact("collection", name=name, tensors=list(tensors))

    def model(self, *modules: Mapping[str, Any], root: str = "Net") -> Made:
        """Describe the model; see `module`."""
        return self.fact("model", root=root, modules=[dict(item) for item in modules])

    def passed(self, mode: ModeKeys, first: int, last: int, *, loader: int = 0, number: int = 0) -> Made:
        """Add a pass over a loader."""
        return self.fact(
            "pass", last, mode, loader=loader, number=number, batches=last - first + 1,
            first_step=first, last_step=last, exhausted=True,
        )  # fmt: skip

    def recording(self) -> Recording:
        """Return what has been made so far."""
        made: Recording = self.writer.recording()
        return made

    def _global(self, mode: ModeKeys, step: int) -> int:
        return self._at.setdefault((mode, step), len(self._at))


def module(
    name: str, kind: str, shape: Sequence[int] | None = None, *, trainable: bool = True, **settings: float
) -> dict[str, Any]:
    """Describe a module; with `shape` it has a weight `Net_NAME.weight`."""
    parameters = []
    if shape is not None:
        parameters = [
            {"name": f"Net_{name}.weight", "shape": list(shape), "dtype": "float32", "requires_grad": trainable}
        ]
    return {
        "name": name,
        "type": kind,
        "trainable": trainable and shape is not None,
        "frozen": not trainable and shape is not None,
        "training": True,
        "settings": settings,
        "parameters": parameters,
    }


def linear(name: str, inputs: int, outputs: int, *, trainable: bool = True) -> dict[str, Any]:
    """Describe a linear layer."""
    sizes = {"in_features": inputs, "out_features": outputs}
    return module(name, "Linear", (outputs, inputs), trainable=trainable, **sizes)
