"""Collections: named sets of tensors that are saved alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finepoint.debugger.configuration import ReductionConfig, SaveConfig, SaveConfigMode
from finepoint.debugger.modes import ModeKeys
from finepoint.errors import ConfigurationError


class CollectionKeys:
    """The names of the collections that are built in."""

    ALL = "all"
    DEFAULT = "default"
    WEIGHTS = "weights"
    BIASES = "biases"
    GRADIENTS = "gradients"
    LOSSES = "losses"
    INPUTS = "inputs"
    OUTPUTS = "outputs"
    RELU_INPUT = "relu_input"
    RELU_OUTPUT = "relu_output"
    OPTIMIZER_VARIABLES = "optimizer_variables"
    METRICS = "metrics"


# smdebug's names come in its words; the rest are what other frameworks and the built-in rules ask for.
_REGEXES = {
    CollectionKeys.ALL: [],
    CollectionKeys.DEFAULT: [],
    CollectionKeys.WEIGHTS: ["^(?!gradient).*weight"],
    CollectionKeys.BIASES: ["^(?!gradient).*bias"],
    CollectionKeys.GRADIENTS: ["^gradient"],
    CollectionKeys.LOSSES: ["[Ll]oss_(?!input).*output"],
}
_REGEXES_BEYOND = {
    CollectionKeys.INPUTS: [r"_input_\d+$"],
    CollectionKeys.OUTPUTS: [r"_output_\d+$"],
    CollectionKeys.RELU_INPUT: [".*relu_input"],
    CollectionKeys.RELU_OUTPUT: [".*relu_output"],
    CollectionKeys.OPTIMIZER_VARIABLES: ["^optimizer/"],
    CollectionKeys.METRICS: ["^scalar/"],
}


class Collection:
    """A named set of tensors.

    Args:
        name: its name.
        include_regex: tensors whose name one of these matches anywhere (`re.search`) belong to it.
        tensor_names: these belong to it too.
        reduction_config: what is saved of them; None for the hook's.
        save_config: when; None for the hook's. A dictionary by mode may lack modes.
    """

    def __init__(
        self,
        name: str,
        include_regex: list[str] | None = None,
        tensor_names: set[str] | list[str] | None = None,
        reduction_config: ReductionConfig | None = None,
        save_config: SaveConfig | Mapping[ModeKeys, SaveConfigMode] | None = None,
        save_histogram: bool = True,
    ) -> None:
        self.name = name
        self.include_regex = list(include_regex or [])
        self.tensor_names = set(tensor_names or ())
        self.reduction_config = reduction_config
        self.save_config = save_config
        self.save_histogram = save_histogram
        self._modules: dict[Any, tuple[bool, bool]] = {}

    def include(self, patterns: str | list[str]) -> None:
        """Add patterns of names."""
        self.include_regex += [patterns] if isinstance(patterns, str) else patterns

    def add_module_tensors(self, module: Any, inputs: bool = False, outputs: bool = True) -> None:
        """Add what goes into a module or comes out of it."""
        self._modules[module] = (inputs, outputs)

    @property
    def modules(self) -> dict[Any, tuple[bool, bool]]:
        """The modules added, each with whether its inputs and its outputs belong to the collection."""
        return self._modules

    @property
    def save_config(self) -> SaveConfig | None:
        """When its tensors are saved; None where the hook decides."""
        return self._save_config

    @save_config.setter
    def save_config(self, value: SaveConfig | Mapping[ModeKeys, SaveConfigMode] | None) -> None:
        self._save_config = None if value is None else SaveConfig.parse(value)

    def matches(self, name: str) -> bool:
        """Return whether a tensor of that name belongs to it.

        >>> Collection("relu", [".*relu_input"]).matches("layer1.relu_input_0")
        True
        """
        return name in self.tensor_names or any(re.search(pattern, name) for pattern in self.include_regex)

    def __repr__(self) -> str:
        return f"<Collection {self.name}: {self.include_regex}>"


class CollectionManager:
    """The collections of a hook.

    Args:
        beyond: whether the collections beyond smdebug's for PyTorch are built in too.
    """

    def __init__(self, beyond: bool = True) -> None:
        built_in = {**_REGEXES, **(_REGEXES_BEYOND if beyond else {})}
        self.collections = {name: Collection(name, list(patterns)) for name, patterns in built_in.items()}
        self._built_in = set(built_in)

    def get(self, name: str, create: bool = True) -> Collection:
        """Return a collection, made where it is not there and `create` is set.

        Raises:
            ConfigurationError: it is not there.
        """
        if name not in self.collections:
            if not create:
                raise ConfigurationError(f"there is no collection {name!r}; there are {', '.join(self.collections)}")
            self.collections[name] = Collection(name)
        return self.collections[name]

    def add(self, collection: Collection | str) -> None:
        """Add a collection; one of the same name is replaced."""
        if isinstance(collection, str):
            self.get(collection)
        else:
            self.collections[collection.name] = collection

    def check(self) -> None:
        """Refuse collections that can hold nothing.

        Raises:
            ConfigurationError: an own collection has neither patterns nor names.
        """
        empty = [
            name
            for name, held in self.collections.items()
            if name not in self._built_in and not (held.include_regex or held.tensor_names or held.modules)
        ]
        if empty:
            raise ConfigurationError([f"collection {name!r} holds nothing; give it an include_regex" for name in empty])
