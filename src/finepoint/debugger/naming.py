"""Names: what tensors of a model are called, in smdebug's way."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the user's model inside what torch puts around it (parallel wrappers, `torch.compile`)."""
    while True:
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


class Names:
    """Paths of modules and names of parameters of the models that have been seen.

    A shared module or parameter has the name under which it comes first.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> names = Names()
    >>> names.add(model)
    >>> names.module(model[0]), names.parameter(model[0].weight), names.module(model)
    ('0', 'Sequential_0.weight', 'Sequential')
    """

    def __init__(self) -> None:
        self.models: list[nn.Module] = []
        # The modules and parameters are kept, so that no other object can come to have their id.
        self._modules: dict[int, tuple[str, nn.Module]] = {}
        self._parameters: dict[int, tuple[str, Tensor]] = {}

    def add(self, model: nn.Module) -> None:
        """Name a model's modules and parameters; those of a second model carry its class in front."""
        root = type(model).__name__
        first = not self.models
        self.models.append(model)
        for path, module in model.named_modules():
            name = path if first else f"{root}.{path}"
            self._modules.setdefault(id(module), (name if path else root, module))
        for path, parameter in model.named_parameters():
            self._parameters.setdefault(id(parameter), (f"{root}_{path}", parameter))

    def module(self, module: nn.Module) -> str | None:
        """Return a module's name, None for a stranger's."""
        found = self._modules.get(id(module))
        return None if found is None else found[0]

    def parameter(self, parameter: Tensor) -> str | None:
        """Return a parameter's name, None for a stranger's."""
        found = self._parameters.get(id(parameter))
        return None if found is None else found[0]

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the name and the tensor of each parameter."""
        return list(self._parameters.values())

    def modules(self) -> list[tuple[str, nn.Module]]:
        """Return the name and the module of each module."""
        return list(self._modules.values())
