"""Building a backbone's network from timm or torchvision, without its classifier.

This module imports torch; everything that only describes a backbone is in backbones.py, which does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from finepoint.errors import ConfigurationError

# torchvision keeps its classifier under one of these names, and its last feature map comes out of one of those.
_HEAD_NAMES = ("fc", "classifier", "heads", "head")
_FEATURE_MAP_NAMES = (
    "layer4",
    "trunk_output",
    "conv5",
    "Mixed_7c",
    "inception5b",
    "features",
    "layers",
    "blocks",
)
# These two were trained with an input transformation of their own, which their constructor switches on.
_TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "init_weights": True, "aux_logits": True},
    "inception_v3": {"transform_input": True, "init_weights": True, "aux_logits": True},
}


@dataclass(frozen=True)
class Network:
    """A backbone's network.

    Args:
        module: the whole network, classifier removed; its state dict takes the pretrained weights.
        extract: float images [n, 3, h, w] to (features [n, d], feature map [n, c, h', w'] or None).
        head_prefixes: state-dict names that begin so belong to the removed classifier.
    """

    module: nn.Module
    extract: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    head_prefixes: tuple[str, ...]


def known_libraries(name: str) -> tuple[tuple[str, str], ...]:
    """Return the (library, architecture) pairs that `name` can mean, best first.

    `timm/NAME` and `torchvision/NAME` say which; a bare name that both have is torchvision's, because that
    is what the weights in a torch hub cache are for.

    >>> known_libraries("resnet50")[0]
    ('torchvision', 'resnet50')
    """
    import timm
    import torchvision

    library, _, architecture = name.rpartition("/")
    found = []
    if library in ("", "torchvision") and architecture in torchvision.models.list_models(module=torchvision.models):
        found.append(("torchvision", architecture))
    if library in ("", "timm") and timm.is_model(architecture.split(".")[0]):
        found.append(("timm", architecture))
    return tuple(found)


def build_network(library: str, architecture: str) -> Network:
    """Return the network of an architecture, randomly initialised from torch's global generator, in eval mode.

    Raises:
        ConfigurationError: the architecture has no classifier that we know how to remove.
    """
    if library == "timm":
        return _timm_network(architecture)
    return _torchvision_network(architecture)


def _timm_network(architecture: str) -> Network:
    import timm

    # num_classes=0 at construction would change the structure of a few models; resetting never does.
    module = timm.create_model(architecture, pretrained=False)
    heads = module.pretrained_cfg.get("classifier") or ()
    module.reset_classifier(0)
    module.eval()

    def extract(images: Tensor) -> tuple[Tensor, Tensor | None]:
        raw = module.forward_features(images)
        features = module.forward_head(raw, pre_logits=True)
        return features.flatten(1), _as_map(raw, module)

    names = (heads,) if isinstance(heads, str) else tuple(heads)
    return Network(module, extract, tuple(f"{name}." for name in names))


def _as_map(raw: Tensor, module: Any) -> Tensor | None:
    """Return timm's features as [n, c, h, w], whichever layout the architecture uses."""
    channels = module.num_features
    if raw.ndim == 4:
        return raw if raw.shape[1] == channels else raw.permute(0, 3, 1, 2)
    if raw.ndim == 3:
        tokens = raw[:, getattr(module, "num_prefix_tokens", 0) :]
        side = round(tokens.shape[1] ** 0.5)
        if side * side == tokens.shape[1]:
            grid: Tensor = torch.unflatten(tokens.transpose(1, 2), 2, (side, side))
            return grid
    return None


def _torchvision_network(architecture: str) -> Network:
    import torchvision

    options = _TORCHVISION_OPTIONS.get(architecture, {})
    module: Any = torchvision.models.get_model(architecture, weights=None, **options)
    head = next((name for name in _HEAD_NAMES if hasattr(module, name)), None)
    if head is None:
        raise ConfigurationError(
            f"backbone {architecture!r}: its classifier is not where torchvision puts it; use timm/{architecture}"
        )
    removed = _remove_last_layer(module, head)
    module.eval()
    trunk = next((getattr(module, name) for name in _FEATURE_MAP_NAMES if hasattr(module, name)), None)

    def extract(images: Tensor) -> tuple[Tensor, Tensor | None]:
        seen: list[Tensor] = []
        handle = None
        if trunk is not None:
            handle = trunk.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        features = cast(Tensor, module(images)).flatten(1)
        if handle is not None:
            handle.remove()
        if not seen or seen[0].ndim != 4:
            return features, None
        # torchvision's swin transformers work in [n, h, w, c].
        return features, seen[0].permute(0, 3, 1, 2) if "swin" in architecture else seen[0]

    return Network(module, extract, (removed, "AuxLogits.", "aux1.", "aux2."))


def with_stages(network: Network, stages: Sequence[str]) -> Network:
    """Return the network with the spatial averages of earlier stages' outputs beside its features.

    Args:
        network: any convolution network.
        stages: names of its submodules, each giving [n, c, h, w].
    """
    if not stages:
        return network

    def extract(images: Tensor) -> tuple[Tensor, Tensor | None]:
        seen: list[Tensor] = []
        handles = [
            network.module.get_submodule(stage).register_forward_hook(
                lambda _module, _inputs, output: seen.append(output.mean((2, 3)))
            )
            for stage in stages
        ]
        features, feature_map = network.extract(images)
        for handle in handles:
            handle.remove()
        return torch.cat([features, *seen], 1), feature_map

    return replace(network, extract=extract)


def _remove_last_layer(module: Any, head: str) -> str:
    """Replace the last layer of `module.head` by the identity; return the removed layer's name and a dot."""
    part = getattr(module, head)
    if isinstance(part, nn.Linear):
        setattr(module, head, nn.Identity())
        return f"{head}."
    for name, layer in reversed(list(part.named_children())):
        if isinstance(layer, nn.Linear):
            setattr(part, name, nn.Identity())
            return f"{head}.{name}."
    # SqueezeNet classifies with a convolution: pool the features in its place.
    setattr(module, head, nn.AdaptiveAvgPool2d(1))
    return f"{head}."


def freeze(module: nn.Module) -> nn.Module:
    """Put `module` in eval mode for good and take its parameters out of training.

    A frozen backbone in train mode would go on updating its batch-norm statistics; `train()` therefore
    has no effect on what this returns.
    """
    module.eval()
    module.requires_grad_(False)
    module.train = lambda _mode=True: module  # type: ignore[method-assign, assignment]
    return module


class GraphModule(nn.Module):
    """Raw images to features, as exported: uint8 [n, h, w, 3] to features [n, d] and the feature map.

    Args:
        network: the backbone.
        mean: per channel, in 0..1 units.
        std: likewise.
    """

    def __init__(
        self,
        network: Network,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.network = freeze(network.module)
        self._extract = network.extract
        scale = torch.tensor([1 / (255 * s) for s in std]).view(1, 3, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, 3, 1, 1)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = images.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift
        features, feature_map = self._extract(pixels)
        return (features,) if feature_map is None else (features, feature_map)
