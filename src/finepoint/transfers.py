"""Moments in which tensors go elsewhere: to a device, back to Python, into a file. See `finepoint.instrumentation`.

================  ===========================================================================================
event             callback is called with
================  ===========================================================================================
COPY              tensor, True before and False after: `Tensor.to` and `.cuda`
SYNC              tensor, True before and False after: `.item()`, `.cpu()`, `.tolist()`, `.numpy()`, `float()`,
                  `int()`, and `if tensor:`
SAVE              True before and False after: `torch.save` and safetensors' writing
================  ===========================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import safetensors
import torch
from torch import Tensor

from finepoint.instrumentation import Event
from finepoint.patching import Remove, replace_all


def _install_save(event: Event[[bool]]) -> Remove:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def save(*args: Any, **kwargs: Any) -> Any:
            event.emit(True)
            try:
                return original(*args, **kwargs)
            finally:
                event.emit(False)

        return save

    return replace_all(
        [(torch, "save", around), (safetensors, "serialize", around), (safetensors, "serialize_file", around)]
    )


def _install_tensor_methods(*names: str) -> Callable[[Event[[Tensor, bool]]], Remove]:
    """Watch methods that `Tensor` inherits from its C base: ours stand in `Tensor` itself, and are deleted again."""

    def install(event: Event[[Tensor, bool]]) -> Remove:
        def around(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                event.emit(tensor, True)
                try:
                    return original(tensor, *args, **kwargs)
                finally:
                    event.emit(tensor, False)

            return method

        own = {name: vars(Tensor).get(name) for name in names}
        for name in names:
            setattr(Tensor, name, around(getattr(Tensor, name)))

        def remove() -> None:
            for name, former in own.items():
                if former is None:
                    delattr(Tensor, name)
                else:
                    setattr(Tensor, name, former)

        return remove

    return install


COPY: Event[[Tensor, bool]] = Event(_install_tensor_methods("to", "cuda"))
SYNC: Event[[Tensor, bool]] = Event(
    _install_tensor_methods("item", "cpu", "tolist", "numpy", "__float__", "__int__", "__bool__")
)
SAVE: Event[[bool]] = Event(_install_save)
