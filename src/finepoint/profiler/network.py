"""A look at the networks that a job trains: for a few steps every module is timed, then none."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import nn

from finepoint import instrumentation as moments

# More rows than this say nothing that the first ones do not.
_MODULES = 40
# The kinds of layers with the most operations that are kept, to be measured by themselves afterwards.
_KINDS = 8
# How torch begins to say that a compiled module's hooks are not compiled.
_COMPILED_WITH_HOOKS = r"Using `torch\.compile\(module\)` when there are global hooks"


class NetworkProbe:
    """Times the forward of every module for a few steps, which global hooks make dear, and then lets go.

    Args:
        steps: for how many.
    """

    def __init__(self, steps: int) -> None:
        self._left = self._steps = steps
        self._stack: list[tuple[nn.Module, float]] = []
        self._seconds: dict[nn.Module, float] = {}
        self._roots: dict[nn.Module, _Root] = {}
        self._flops: dict[nn.Module, float] = {}
        self._shapes: dict[nn.Module, list[int]] = {}
        # Ours are no reason to warn the script of, were a warning an error there.
        warnings.filterwarnings("ignore", _COMPILED_WITH_HOOKS, UserWarning)
        self._filter = warnings.filters[0]
        self._subscriptions = [
            moments.FORWARD_BEGIN.subscribe(self._begins),
            moments.FORWARD_END.subscribe(self._ends),
        ]

    def close(self) -> None:
        """Look no more, though there may be steps left."""
        for subscription in self._subscriptions:
            subscription.close()
        if self._filter in warnings.filters:
            warnings.filters.remove(self._filter)  # type: ignore[attr-defined]

    def step(self) -> bool:
        """Count a step; return whether it was the last one, once."""
        if self._left == 0:
            return False
        self._left -= 1
        if self._left == 0:
            self.close()
            self._found = [
                root.describe(module, self._seconds, self._flops, self._shapes)
                | {"calls_per_step": root.calls / self._steps}
                for module, root in self._roots.items()
                if root.parameters
            ]
            self._seconds.clear()
            self._roots.clear()
            self._flops.clear()
            self._shapes.clear()
            self._stack.clear()
            return True
        return False

    def networks(self) -> list[dict[str, Any]]:
        """Return what is known of each outermost module with parameters, once the last step was counted."""
        return self._found if self._left == 0 else []

    def _begins(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._stack:
            root = self._roots.setdefault(module, _Root(module, args))
            root.calls += 1
        self._stack.append((module, time.perf_counter()))

    def _ends(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # A forward that raised left its entry; what is above ours on the stack is such.
        while self._stack:
            begun, at = self._stack.pop()
            if begun is module:
                operations = _operations(module, output)
                if operations and args and isinstance(args[0], torch.Tensor):
                    self._flops[module] = self._flops.get(module, 0.0) + operations
                    self._shapes[module] = list(args[0].shape)
                self._seconds[module] = self._seconds.get(module, 0.0) + time.perf_counter() - at
                break


class _Root:
    """Facts of an outermost module at its call."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        parameters = list(module.parameters())
        self.parameters = sum(parameter.numel() for parameter in parameters)
        self.trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        self.dtype = str(parameters[0].dtype).removeprefix("torch.") if parameters else ""
        self.device = str(parameters[0].device.type) if parameters else ""
        self.autocast = torch.is_autocast_enabled(self.device) if self.device else False
        self.channels_last = _is_channels_last(args[0]) if args else False
        self.grad = torch.is_grad_enabled()
        self.calls = 0

    def describe(
        self,
        module: nn.Module,
        seconds: dict[nn.Module, float],
        flops: dict[nn.Module, float],
        shapes: dict[nn.Module, list[int]],
    ) -> dict[str, Any]:
        whole = seconds.get(module, 0.0)
        names = dict(module.named_modules())
        frozen = [child for name, child in names.items() if _is_frozen(child) and not _frozen_above(name, names)]
        frozen_seconds = whole if _is_frozen(module) else sum(seconds.get(child, 0.0) for child in frozen)
        rows = [
            {
                "name": name or type(module).__name__,
                "class": type(child).__name__,
                "share": seconds[child] / whole if whole else 0.0,
                "frozen": _is_frozen(child),
            }
            for name, child in names.items()
            if child in seconds and not list(child.children())
        ]
        return {
            "class": type(module).__name__,
            "parameters": self.parameters,
            "trainable": self.trainable,
            "dtype": self.dtype,
            "device": self.device,
            "autocast": self.autocast,
            "channels_last": self.channels_last,
            "grad": self.grad,
            "convolutions": sum(isinstance(child, nn.Conv2d) for child in names.values()),
            "frozen_share": min(frozen_seconds / whole, 1.0) if whole else 0.0,
            "seconds": whole,
            "flops": sum(flops.get(child, 0.0) for child in names.values()) / max(self.calls, 1),
            "layers": _layers(list(names.values()), flops, shapes, max(self.calls, 1)),
            "modules": sorted(rows, key=lambda row: -float(row["share"]))[:_MODULES],
        }


def _operations(module: nn.Module, output: Any) -> float:
    """Return the multiplications and additions of a convolution or a linear layer's forward; others have few."""
    if not isinstance(output, torch.Tensor):
        return 0.0
    if isinstance(module, nn.Conv2d):
        window = module.kernel_size[0] * module.kernel_size[1]
        return 2.0 * output.numel() * module.in_channels // module.groups * window
    return 2.0 * output.numel() * module.in_features if isinstance(module, nn.Linear) else 0.0


def _layers(
    modules: list[nn.Module], flops: dict[nn.Module, float], shapes: dict[nn.Module, list[int]], calls: int
) -> list[dict[str, Any]]:
    """Return what it takes to build the heaviest convolutions and linear layers again; alike ones once, counted."""
    norms = any(isinstance(module, nn.BatchNorm2d) for module in modules)
    kinds: dict[str, dict[str, Any]] = {}
    for module in modules:
        if module not in shapes:
            continue
        kind = {"input": shapes[module], "frozen": _is_frozen(module), "bias": module.bias is not None}
        if isinstance(module, nn.Conv2d):
            places = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
            kind |= {"class": "Conv2d", "norm": norms, "sizes": [getattr(module, place) for place in places]}
        else:
            kind |= {"class": "Linear", "norm": False, "sizes": [module.in_features, module.out_features]}
        found = kinds.setdefault(repr(kind), kind | {"flops": 0.0, "count": 0})
        found["flops"] += flops[module] / calls
        found["count"] += 1
    return sorted(kinds.values(), key=lambda kind: -float(kind["flops"]))[:_KINDS]


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _frozen_above(name: str, names: dict[str, nn.Module]) -> bool:
    parts = name.split(".")
    return any(_is_frozen(names[".".join(parts[:end])]) for end in range(len(parts)) if name)


def _is_channels_last(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.ndim == 4
        and value.is_contiguous(memory_format=torch.channels_last)
        and not value.is_contiguous()
    )
