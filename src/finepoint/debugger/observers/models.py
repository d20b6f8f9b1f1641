"""Models: what they are made of, and which of their modules were left in train mode while evaluating."""

from __future__ import annotations

from typing import Any

from torch import nn

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recorder import Recorder, Step

_SENSITIVE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


class Models:
    """Describes each model when it is first seen."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        recorder.on_model.append(self._found)

    def _found(self, model: nn.Module) -> None:
        modules = [self._module(path, module) for path, module in model.named_modules()]
        self._recorder.writer.fact("model", root=type(model).__name__, modules=modules)

    def _module(self, path: str, module: nn.Module) -> dict[str, Any]:
        own = list(module.parameters(recurse=False))
        settings = {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("_") and key != "training" and isinstance(value, int | float | str | tuple)
        }
        return {
            "name": path,
            "type": type(module).__name__,
            "trainable": any(item.requires_grad for item in own),
            "frozen": bool(own) and not any(item.requires_grad for item in own),
            "training": module.training,
            "settings": settings,
            "parameters": [
                {
                    "name": self._recorder.names.parameter(item),
                    "shape": list(item.shape),
                    "dtype": str(item.dtype).removeprefix("torch."),
                    "requires_grad": item.requires_grad,
                }
                for item in own
            ],
        }


class Evaluation:
    """Tells which dropouts and batch norms were in train mode while evaluating."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._told: set[tuple[str, ...]] = set()
        recorder.on_step_begin.append(self._step_begins)

    def _step_begins(self, step: Step) -> None:
        if step.mode is not ModeKeys.EVAL or not step.light:
            return
        modules = self._recorder.names.modules()
        active = tuple(name for name, module in modules if module.training and isinstance(module, _SENSITIVE))
        if active not in self._told:
            self._told.add(active)
            self._recorder.writer.fact("evaluation", step.number, step.mode, training_modules=list(active))
