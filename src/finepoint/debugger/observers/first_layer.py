"""The first layer: what it is given, and whether pretrained weights expect that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recorder import Recorder, Step
from finepoint.debugger.reductions import measurable, reduce, sampled
from finepoint.debugger.selection import DEFAULT_REDUCTIONS

# What nearly all pretrained networks for photographs were trained with.
# Others, of Inception's and EfficientNet's kind, take 0.5 off and divide by it.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Saved steps that are looked at, at most: later ones tell nothing new.
_STEPS = 4
# Images whose statistics of channels tell enough, from several steps together; of one step so many pixels.
_IMAGES, _PIXELS = 32, 16 * 224 * 224
# Images that fit were below this many nats (docs/decisions/015): there is nothing to correct.
_FITS = 0.1
_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
# Of what the layer makes of them.
_OUTPUTS = 1 << 20
# Channels that hardly varied in pretraining are dead; their divergence says nothing.
_DEAD = 1e-4


class FirstLayer:
    """Tells, at the first saved training steps, what the first weighted layer is given.

    Where a batch norm follows it that remembers another training, what that sees is compared with what it remembers;
    so is what it would see, where that does not fit, if the images were corrected in one of several ways. The layer is
    computed again for that, on at most 32 images, from several steps while the layer is frozen, without gradients;
    nothing random is drawn.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._told = 0
        self._remembered: dict[str, tuple[Tensor, Tensor]] | None = None
        self._first: tuple[str, nn.Module, Tensor] | None = None
        self._moments: dict[str, Tensor] = {}
        self._images = 0
        self._compared = False
        self._fit: dict[str, float] | None = None
        recorder.on_step_begin.append(self._step_begins)
        recorder.on_module_end.append(self._module_ends)
        recorder.on_step_end.append(self._step_ends)

    def _step_begins(self, step: Step) -> None:
        self._first, self._compared = None, False
        if self._remembered is not None or step.mode is not ModeKeys.TRAIN or not step.heavy:
            return
        # Before the first training step, so that it is what the weights came with.
        self._remembered = {
            name: (module.running_mean.detach().clone(), module.running_var.detach().clone())
            for name, module in self._recorder.names.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.running_mean is not None
            and module.running_var is not None
            and not (bool((module.running_mean == 0).all()) and bool((module.running_var == 1).all()))
        }

    def _module_ends(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        step = self._recorder.step
        if step is None or step.mode is not ModeKeys.TRAIN or self._told >= _STEPS:
            return
        if self._first is None:
            if isinstance(module, _WEIGHTED) and args and measurable(args[0]) is not None:
                self._first = (name, module, args[0].detach())
        elif not self._compared and name in (self._remembered or {}):
            # The first batch norm after it; those that follow see other things.
            self._compared = True
            layer, images = self._first[1], self._first[2]
            if isinstance(layer, nn.Conv2d) and images.dim() == 4 and images.shape[1] == 3:
                assert self._remembered is not None
                mean, var = self._remembered[name]
                # A layer that has been trained since is not the one that the batch norm remembers.
                fresh = self._images == 0 or not layer.weight.requires_grad
                if len(mean) == layer.out_channels and fresh and self._images < _IMAGES:
                    self._compare(layer, images, mean, var)

    @torch.no_grad()
    def _compare(self, layer: nn.Conv2d, images: Tensor, mean: Tensor, var: Tensor) -> None:
        """Add images to those whose statistics are compared."""
        enough = min(_IMAGES - self._images, max(2, _PIXELS // (images.shape[2] * images.shape[3])))
        images = images[:enough]
        self._images += len(images)
        alive = var > _DEAD * var.median()
        self._fit = {}
        for name, corrected in _corrected(images).items():
            self._moments[name] = self._moments.get(name, 0) + _moments(layer.forward(corrected))
            self._fit[name] = _divergence(self._moments[name], mean, var, alive)
            if name == "given" and self._fit[name] < _FITS:
                break

    def _step_ends(self, step: Step) -> None:
        if self._first is None or self._told >= _STEPS:
            return
        self._told += 1
        name, _, given = self._first
        tensor = measurable(given)
        assert tensor is not None
        found = {reduction: float(value) for reduction, value in reduce(tensor, DEFAULT_REDUCTIONS["input"])}
        self._recorder.writer.fact(
            "first_layer_input",
            step.number,
            step.mode,
            module=name,
            shape=list(given.shape),
            images=self._images,
            fit=self._fit,
            **found,
        )


def _corrected(images: Tensor) -> dict[str, Tensor]:
    """Return the images as given, and corrected in each way."""
    centre, spread = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
    return {
        "given": images,
        "scaled": images / 255,
        "normalised": (images - centre) / spread,
        "scaled_normalised": (images / 255 - centre) / spread,
        "centred": 2 * images - 1,
        "scaled_centred": images / 127.5 - 1,
        "undone": images * spread + centre,
        "reversed": images.flip(1),
        # Read in the wrong order and then normalised in the right one.
        "reversed_before": ((images * spread + centre).flip(1) - centre) / spread,
    }


def _moments(output: Tensor) -> Tensor:
    """Return each channel's number of values, their sum, and that of their squares [3, channels]."""
    channels = sampled(output.float(), _OUTPUTS).transpose(0, 1).flatten(1)
    return torch.stack([torch.full_like(channels[:, 0], channels.shape[1]), channels.sum(1), channels.square().sum(1)])


def _divergence(moments: Tensor, mean: Tensor, var: Tensor, alive: Tensor) -> float:
    """Return the Kullback-Leibler divergence of Gaussians, in nats, averaged over channels."""
    count, total, squares = moments
    seen_mean = total / count
    seen_var = (squares / count - seen_mean**2).clamp(min=1e-12)
    nats = 0.5 * (torch.log(var / seen_var) + (seen_var + (seen_mean - mean) ** 2) / var - 1)
    return float(nats[alive].mean())
