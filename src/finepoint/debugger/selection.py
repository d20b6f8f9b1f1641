"""Selection: of which tensors what is saved, and at which steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finepoint.debugger.budget import Budget
from finepoint.debugger.collection import CollectionKeys, CollectionManager
from finepoint.debugger.configuration import ReductionConfig, SaveConfig
from finepoint.debugger.modes import ModeKeys

# What our hook saves of a tensor of each kind where nothing else is configured.
DEFAULT_REDUCTIONS = {
    "weight": ("mean", "std", "l2", "abs_max"),
    "gradient": ("mean", "std", "l2", "abs_mean", "abs_max"),
    "output": ("min", "max", "mean", "std"),
    "input": ("min", "max", "mean", "std"),
    "loss": ("mean",),
    "other": ("mean", "std", "l2"),
}
# Large ones of these are measured on a sample where nobody asked for certain reductions.
_SAMPLED = ("output", "weight", "gradient")
DEFAULT_COLLECTIONS = (
    CollectionKeys.WEIGHTS,
    CollectionKeys.BIASES,
    CollectionKeys.GRADIENTS,
    CollectionKeys.LOSSES,
    CollectionKeys.OUTPUTS,
)
# smdebug keeps these whole whatever the reductions, and saves those only while training.
_WHOLE = (CollectionKeys.LOSSES, CollectionKeys.METRICS)
_TRAIN_ONLY = (CollectionKeys.GRADIENTS, CollectionKeys.OPTIMIZER_VARIABLES)


@dataclass(frozen=True)
class Plan:
    """What is saved of a tensor at a step."""

    reductions: tuple[str, ...] = ()
    whole: bool = False
    collections: tuple[str, ...] = ()
    # Whether a sample of the numbers will do: where nobody has said what to save.
    sampled: bool = False

    def __bool__(self) -> bool:
        return bool(self.reductions or self.whole)


class Selection:
    """Decides what is saved.

    Args:
        manager: the collections.
        included: names of those that are saved.
        save_config: when, for collections without their own; None where the budget decides.
        reduction_config: what, for collections without their own; None for our defaults by kind.
        budget: decides where no `save_config` does.
        whole: whether losses and metrics are kept whole, and everything else too where no reductions are configured,
            as smdebug does.
    """

    def __init__(
        self,
        manager: CollectionManager,
        included: Sequence[str] = DEFAULT_COLLECTIONS,
        save_config: SaveConfig | None = None,
        reduction_config: ReductionConfig | None = None,
        budget: Budget | None = None,
        whole: bool = False,
    ) -> None:
        self.manager, self.included = manager, list(dict.fromkeys(included))
        self.save_config, self.reduction_config, self.budget, self.whole = save_config, reduction_config, budget, whole
        self._fixed: bool | None = None
        self._matching: dict[str, tuple[str, ...]] = {}
        self._plans: dict[tuple[str, frozenset[str]], Plan] = {}

    def active(self, mode: ModeKeys, step: int, force: bool = False) -> frozenset[str]:
        """Return the names of the collections that are saved at a step."""
        affordable: bool | None = None
        found = []
        for name in self._saved():
            if mode in (ModeKeys.EVAL, ModeKeys.PREDICT) and name in _TRAIN_ONLY:
                continue
            config = self._when(name)
            if config is not None:
                due = config.should_save_step(mode, step)
            else:
                if affordable is None:
                    affordable = force or self.budget is None or self.budget.affords(mode, step)
                due = affordable
            if due:
                found.append(name)
        return frozenset(found)

    @property
    def fixed(self) -> bool:
        """Whether somebody has set steps to save, so that none may be passed over."""
        if self._fixed is None:
            self._fixed = self.budget is None or any(self.configured(name) for name in self._saved())
        return self._fixed

    def configured(self, name: str) -> bool:
        """Return whether the steps of a collection have been set, so that the budget has no say."""
        return self._when(name) is not None

    def plan(self, tensor: str, kind: str, active: frozenset[str]) -> Plan:
        """Return what is saved of a tensor where these collections are."""
        if (tensor, active) not in self._plans:
            self._plans[tensor, active] = self._plan(tensor, kind, active)
        return self._plans[tensor, active]

    def _plan(self, tensor: str, kind: str, active: frozenset[str]) -> Plan:
        matching = [name for name in self._members(tensor) if name in active]
        reductions: list[str] = []
        whole = False
        for name in matching:
            config = self.manager.get(name).reduction_config or self.reduction_config
            if self.whole and (config is None or name in _WHOLE):
                whole = True
            elif config is None:
                reductions += DEFAULT_REDUCTIONS[kind]
            else:
                reductions += config.names
                whole |= config.save_raw_tensor
        asked = self.whole or self.reduction_config or any(self.manager.get(n).reduction_config for n in matching)
        return Plan(tuple(dict.fromkeys(reductions)), whole, tuple(matching), kind in _SAMPLED and not asked)

    def _members(self, tensor: str) -> tuple[str, ...]:
        if tensor not in self._matching:
            names = [name for name in self._saved() if self.manager.get(name).matches(tensor)]
            self._matching[tensor] = tuple(names)
        return self._matching[tensor]

    def _saved(self) -> list[str]:
        """Return the collections that are saved; with `all`, every one is."""
        if CollectionKeys.ALL in self.included:
            return list(self.manager.collections)
        return [name for name in self.included if name in self.manager.collections]

    def _when(self, name: str) -> SaveConfig | None:
        own = self.manager.get(name).save_config
        if own is None or self.save_config is None:
            return own or self.save_config
        return own.completed_by(self.save_config)
