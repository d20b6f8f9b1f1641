"""What a fault is, and how one gets at the parts of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from scripts.parts import Parts

ALL = ("frozen_resnet", "cnn_bn", "plain_cnn", "vit", "perceptron")


@dataclass(frozen=True)
class Fault:
    """Something wrong, to be put into a healthy script.

    Args:
        name: of the fault.
        rule: that is to name it.
        put: changes the parts of a script.
        scripts: into which it makes sense to put it.
        also: rules whose findings are true of it too, each with the reason a human expert would give.
        parameters: of the rule, where it needs some.
        later: why it cannot be seen in the first epoch; empty where it can.
        serves: the source of a serving script, for the rule that reads one.
    """

    name: str
    rule: str
    put: Callable[[Parts], None]
    scripts: tuple[str, ...] = ALL
    also: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    later: str = ""


class Block(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def last_linear(model: nn.Module) -> nn.Linear:
    """Return the layer that gives the logits."""
    return [module for module in model.modules() if type(module) is nn.Linear][-1]


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in another's place."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if child is old:
                setattr(owner, name, new)


def before_head(model: nn.Module, *layers: nn.Module) -> None:
    """Put layers before the one that gives the logits."""
    head = last_linear(model)
    replace_module(model, head, nn.Sequential(*layers, head))


def after_head(model: nn.Module, *layers: nn.Module) -> None:
    """Put layers behind the one that gives the logits."""
    head = last_linear(model)
    replace_module(model, head, nn.Sequential(head, *layers))


def trained_layers(model: nn.Module) -> list[nn.Module]:
    """Return the linear and convolutional layers that are trained, in the model's order."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.requires_grad
    ]


def replace_activations(model: nn.Module, activation: type[nn.Module]) -> None:
    """Put other activations in the place of those that stand behind a trained layer."""
    seen = False
    for module in list(model.modules()):
        seen |= any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if seen and isinstance(module, nn.ReLU | nn.Tanh | nn.GELU):
            replace_module(model, module, activation())
