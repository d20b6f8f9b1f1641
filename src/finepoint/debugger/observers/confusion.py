"""Confusion: which label was predicted as which, over a pass of evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.observers.losses import _classifies
from finepoint.debugger.recorder import Recorder, Step
from finepoint.instrumentation import LOSS

# More classes than that would make large matrices of mostly zeros.
_MOST_CLASSES = 512


class Confusions:
    """Counts (label, prediction) pairs while evaluating, and tells them when training goes on or the recorder closes."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._counts: Tensor | None = None
        self._last: Step | None = None
        recorder.watch(LOSS, self._loss_computed)
        recorder.on_step_begin.append(self._step_begins)
        recorder.on_close.append(self._tell)

    def _loss_computed(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        step = self._recorder.step
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if step is None or not step.light or step.mode is not ModeKeys.EVAL or step is self._last:
            return
        if not args or not _classifies(args[0], target) or args[0].shape[1] > _MOST_CLASSES:
            return
        self._last = step
        assert isinstance(target, Tensor)
        classes = args[0].shape[1]
        labels, predicted = target.detach().long(), args[0].detach().argmax(1)
        valid = (labels >= 0) & (labels < classes)
        pairs = torch.bincount((labels * classes + predicted)[valid], minlength=classes**2)
        if self._counts is not None and len(self._counts) == len(pairs):
            pairs = pairs + self._counts
        self._counts = pairs

    def _step_begins(self, step: Step) -> None:
        if step.mode is not ModeKeys.EVAL:
            self._tell()

    def _tell(self) -> None:
        counts, last = self._counts, self._last
        self._counts = self._last = None
        if counts is None or last is None:
            return
        table = counts.cpu()
        classes = round(len(table) ** 0.5)
        places = table.nonzero().flatten().tolist()
        triples = [[place // classes, place % classes, int(table[place])] for place in places]
        self._recorder.writer.fact("confusion", last.number, last.mode, classes=classes, counts=triples)
