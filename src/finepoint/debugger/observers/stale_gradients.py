"""Stale gradients: those that the optimizer has applied and that are still there when the next are added."""

from __future__ import annotations

from typing import Any

import torch

from finepoint.debugger.recorder import Recorder
from finepoint.instrumentation import BACKWARD_BEGIN, STEP_END

# One parameter tells of all: they are cleared together.
_LOOKED_AT = 2


class StaleGradients:
    """Records, of each first backward pass after an optimizer's step, whether it began with gradients in place.

    Gradients that are None, as `zero_grad` leaves them, cost nothing to look at.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._stepped: torch.optim.Optimizer | None = None
        recorder.watch(STEP_END, self._optimizer_ended)
        recorder.watch(BACKWARD_BEGIN, self._backward_begins)

    def _optimizer_ended(self, optimizer: torch.optim.Optimizer) -> None:
        self._stepped = optimizer

    def _backward_begins(self, tensors: Any) -> None:
        optimizer, self._stepped = self._stepped, None
        step = self._recorder.step
        if optimizer is None or step is None or not step.light:
            return
        trained = [item for group in optimizer.param_groups for item in group["params"] if item.requires_grad]
        # The smallest: a bias, where there is one.
        looked_at = sorted(trained, key=lambda item: item.numel())[:_LOOKED_AT]
        stale = [(item.grad != 0).any() for item in looked_at if item.grad is not None]
        self._recorder.put("stale_gradients", torch.stack(stale).any().float() if stale else 0.0)
