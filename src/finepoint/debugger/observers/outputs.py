"""Outputs: what comes out of modules, and what ReLU-like and saturating ones make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recorder import Recorder, Step
from finepoint.debugger.reductions import measurable, sampled

# What activations are looked at as.
_KINDS = {nn.ReLU: "relu", nn.ReLU6: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
# Where a sigmoid's slope is below 0.01, a tanh's below 0.04.
_SIGMOID_ENDS = (0.01, 0.99)
_TANH_END = 0.98
# A unit that is active for few of many positions shall not pass for dead; other statistics need fewer numbers.
_SAMPLE = 1 << 17


class Outputs:
    """Saves outputs and, where asked for, inputs.

    Args:
        leaves_only: whether modules that have children are left out.
        beyond: whether dead, zero and saturated fractions are recorded as well.
    """

    def __init__(self, recorder: Recorder, *, leaves_only: bool = True, beyond: bool = True) -> None:
        self._recorder, self._leaves_only, self._beyond = recorder, leaves_only, beyond
        self._told: set[str] = set()
        recorder.on_module_end.append(self._module_ends)
        if beyond:
            recorder.on_activation.append(self._activated)

    def register(self, module: nn.Module) -> None:
        """Save what a module that is in no model (a loss) takes and returns, under its class's name."""
        given: list[tuple[Any, ...]] = []

        def begins(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given[:] = [args]

        def ends(module: nn.Module, output: Any) -> None:
            if self._recorder.step is not None and self._recorder.step.heavy:
                self._module_ends(type(module).__name__, module, given[0], output)

        self._recorder.watch_module(module, begins, ends)

    def _module_ends(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        step = self._recorder.step
        assert step is not None
        for number, tensor in self._numbered(step, f"{name}_input_", args):
            self._recorder.save(f"{name}_input_{number}", tensor, "input")
        inner = next(module.children(), None) is not None
        if self._leaves_only and inner:
            return
        for number, tensor in self._numbered(step, f"{name}_output_", output):
            full = f"{name}_output_{number}"
            self._recorder.save(full, tensor, "output")
            if self._beyond and (kind := _kind(module)):
                self._look_closer(full, kind, tensor)

    def _activated(self, name: str, owner: nn.Module, function: str, output: Tensor) -> None:
        """An activation called as a function is recorded like a module's."""
        step = self._recorder.step
        assert step is not None
        if _kind(owner):
            return
        for number, tensor in self._numbered(step, f"{name}.{function}_output_", output):
            full = f"{name}.{function}_output_{number}"
            if full not in self._told and _behind_trained(step, tensor):
                self._told.add(full)
                self._recorder.writer.fact("activation", name=full, units=tensor.shape[_units(tensor)])
            self._look_closer(full, "relu" if function == "relu6" else function, tensor)

    def _numbered(self, step: Step, prefix: str, value: Any) -> Iterator[tuple[int, Tensor]]:
        for tensor in _tensors(value):
            number = step.calls.get(prefix, 0)
            step.calls[prefix] = number + 1
            yield number, tensor

    def _look_closer(self, name: str, kind: str, output: Tensor) -> None:
        """Record what an activation has made of its input: shares of zeros, of dead units, of saturated outputs.

        Those of a frozen backbone are what they are.
        """
        plan, tensor, step = self._recorder.plan(name, "output"), measurable(output), self._recorder.step
        if not plan or tensor is None or step is None or not _behind_trained(step, output):
            return
        tensor = sampled(tensor, _SAMPLE) if plan.sampled else tensor
        if kind == "relu":
            self._recorder.put(f"zero_fraction/{name}", 1 - torch.count_nonzero(tensor) / tensor.numel())
            if tensor.dim() > 1:
                units = _units(tensor)
                alive = torch.count_nonzero(tensor.sum(dim=[d for d in range(tensor.dim()) if d != units]))
                self._recorder.put(f"dead_fraction/{name}", 1 - alive / tensor.shape[units])
        elif kind == "sigmoid":
            low, high = _SIGMOID_ENDS
            self._recorder.put(f"saturated_fraction/{name}", ((tensor < low) | (tensor > high)).float().mean())
        else:
            self._recorder.put(f"saturated_fraction/{name}", (tensor.abs() > _TANH_END).float().mean())


def _behind_trained(step: Step, output: Tensor) -> bool:
    """Whether something that is trained stands before an output; while evaluating nobody can tell."""
    return output.requires_grad or step.mode is not ModeKeys.TRAIN


def _kind(module: nn.Module) -> str | None:
    return next((kind for known, kind in _KINDS.items() if isinstance(module, known)), None)


def _units(tensor: Tensor) -> int:
    """Return the dimension of the units: images have them in dimension 1, everything else in the last."""
    return 1 if tensor.dim() == 4 else tensor.dim() - 1


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value: one, or those in tuples and lists, as smdebug takes them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


class BatchNorms:
    """Saves the running statistics of batch norms."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        recorder.on_step_begin.append(self._step_begins)

    def _step_begins(self, step: Step) -> None:
        if not step.heavy:
            return
        for name, module in self._recorder.names.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                for buffer in ("running_mean", "running_var"):
                    values = getattr(module, buffer).detach()
                    series = f"batch_norm/{name}.{buffer}"
                    self._recorder.put(series, values.mean(), "mean")
                    self._recorder.put(series, values.std(correction=min(1, values.numel() - 1)), "std")
                    self._recorder.put(series, torch.linalg.vector_norm(values), "l2")
