"""A context manager for training loops that are ours to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from finepoint.debugger.budget import BUDGET, Budget
from finepoint.debugger.collection import CollectionManager
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.observers import observe
from finepoint.debugger.observers.processes import rank
from finepoint.debugger.recorder import Recorder
from finepoint.debugger.selection import Selection
from finepoint.debugger.writing import RecordingWriter


class Recorded:
    """A training loop that is being recorded; without a recorder, everything it does is nothing."""

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._passes: Counter[ModeKeys] = Counter()
        self._steps: dict[ModeKeys, list[int]] = {}
        if recorder is not None:
            recorder.on_step_begin.append(lambda step: self._counts(step.mode, step.number))
            recorder.on_step_skipped.append(self._counts)

    @property
    def overhead_fraction(self) -> float:
        """The share of the time since the beginning that recording has taken, measured here."""
        return 0.0 if self._recorder is None else self._recorder.budget.fraction

    def epoch_ended(self) -> None:
        """Say that a pass over the training data, and over the validation data, is over.

        A loop over a DataLoader need not say it: its passes are seen.
        """
        if self._recorder is None:
            return
        for mode, (first, last, batches) in self._steps.items():
            self._recorder.writer.fact(
                "pass",
                last,
                mode,
                loader=None,
                number=self._passes[mode],
                batches=batches,
                first_step=first,
                last_step=last,
                exhausted=True,
            )
            self._passes[mode] += 1
        self._steps = {}

    def scalar(self, name: str, value: float) -> None:
        """Record a number, as `scalar/NAME`, at the current step."""
        if self._recorder is not None:
            self._recorder.scalar(f"scalar/{name}", value)

    def _counts(self, mode: ModeKeys, number: int) -> None:
        first, _, batches = self._steps.get(mode, (number, number, 0))
        self._steps[mode] = [first, number, batches + 1]


@contextmanager
def recorded(
    model: nn.Module,
    out_dir: Path | None,
    *,
    stand_ins: Sequence[nn.Module] = (),
    losses: Sequence[nn.Module] = (),
    budget: float = BUDGET,
) -> Iterator[Recorded]:
    """Record what happens inside the block: each call of the model is a step.

    Optimizers, losses of `torch.nn.functional` (also those imported by name) and data loaders are seen by themselves.

    Args:
        model: the model that is trained.
        out_dir: folder of the recording, `<job>/debug-output`; None records nothing and costs nothing.
        stand_ins: copies of the model (an average of its weights) whose calls are steps as well.
        losses: loss modules of your own; torch's are seen by themselves.
        budget: share of the time that recording may take; where steps are tiny fewer are recorded, and the
            recording says so.

    >>> import tempfile, torch
    >>> from finepoint.debugger.recording import Recording
    >>> head = nn.Linear(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with recorded(head, Path(folder)) as record:
    ...         _ = nn.functional.cross_entropy(head(torch.zeros(4, 2)), torch.zeros(4, dtype=torch.int64))
    ...         record.epoch_ended()
    ...     Recording.open(folder).steps(ModeKeys.TRAIN)
    [0]
    """
    if out_dir is None:
        yield Recorded(None)
        return
    selection = Selection(CollectionManager(), budget=Budget(budget))
    recorder = Recorder(RecordingWriter(out_dir, rank), selection, discover=False)
    handle = Recorded(recorder)
    observer = observe(recorder)
    for loss in losses:
        observer.register(loss)
    recorder.stand_ins = list(stand_ins)
    recorder.adopt(model)
    try:
        yield handle
    finally:
        recorder.close()
