"""Rules about which parameters are trained at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import first_rank, loss, parameters, plot, series
from finepoint.debugger.rules.result import RuleResult


@rule
@dataclass(frozen=True)
class FrozenEverything(Rule):
    """The optimizer moves none of the model's parameters.

    Fires when, at `steps` optimizer steps, nothing that it holds is the model's and had a gradient: everything is
    frozen, or the optimizer was made before the layers that are trained.

    Args:
        steps: optimizer steps to wait.
    """

    steps: int = 2

    def judge(self, recording: Recording) -> RuleResult:
        optimizers = recording.facts("optimizer", rank=first_rank(recording))
        if not optimizers:
            return self.not_applicable("no optimizer took a step")
        known = {item.name: item for item in parameters(recording)}
        held = [name for fact in optimizers for group in fact["groups"] for name in group["parameters"]]
        moved = [name for name in held if name in known and known[name].trainable and not _never(recording, name)]
        taken = series(recording, "learning_rate/group0")
        if moved:
            return self.clean(parameters=len(moved))
        if len(taken) < self.steps:
            return self.not_applicable(f"{len(taken)} optimizer steps were seen; it takes {self.steps}")
        return self.issue(
            int(taken.steps[self.steps - 1]),
            "TRAIN",
            meaning=f"The optimizer holds {len(held)} parameters; none of them is trained.",
            remedy="make the optimizer after the last change to the model, from "
            "[p for p in model.parameters() if p.requires_grad], and set requires_grad where it is missing",
            not_in_optimizer=[name for fact in optimizers for name in fact["not_in_optimizer"]][:10],
            not_in_model=sum(int(fact["not_in_model"]) for fact in optimizers),
            series=plot(loss(recording)),
        )


@rule
@dataclass(frozen=True)
class UnusedParameters(Rule):
    """Parameters that should be trained are not.

    Fires when parameters that require a gradient are in no optimizer, or when some that the optimizer holds had no
    gradient at any of `steps` steps: the forward pass does not use them.

    Frozen parameters (`requires_grad=False`) in the optimizer are left alone: it skips them, and handing it all of
    `model.parameters()` is a habit that harms nothing.

    Args:
        steps: optimizer steps to wait.
    """

    steps: int = 3

    def judge(self, recording: Recording) -> RuleResult:
        optimizers = recording.facts("optimizer", rank=first_rank(recording))
        if not optimizers:
            return self.not_applicable("no optimizer took a step")
        taken = series(recording, "learning_rate/group0")
        if len(taken) < self.steps:
            return self.not_applicable(f"{len(taken)} optimizer steps were seen; it takes {self.steps}")
        known = {item.name: item for item in parameters(recording)}
        held = {name for fact in optimizers for group in fact["groups"] for name in group["parameters"]}
        latest: dict[int, list[str]] = {int(fact["number"]): fact["not_in_optimizer"] for fact in optimizers}
        outside = sorted(set.intersection(*map(set, latest.values())) - held)
        outside = [name for name in outside if name not in known or known[name].trainable]
        unused = sorted(name for name in held if name in known and known[name].trainable and _never(recording, name))
        if not outside and not unused:
            return self.clean(parameters=len(held))
        what = []
        if outside:
            what.append(f"{len(outside)} parameters that require a gradient are in no optimizer ({outside[0]} first)")
        if unused:
            what.append(f"{len(unused)} in the optimizer never get a gradient ({unused[0]} first)")
        return self.issue(
            int(taken.steps[self.steps - 1]),
            "TRAIN",
            meaning="; ".join(what) + ".",
            remedy="hand the optimizer all of them, or freeze what is not to be trained (requires_grad_(False)); "
            "use in forward() what is never used, or remove it",
            not_in_optimizer=outside[:10],
            without_gradient=unused[:10],
        )


def _never(recording: Recording, name: str) -> bool:
    """Whether a parameter was without gradient and has never had one since."""
    told = any(name in fact["parameters"] for fact in recording.facts("no_gradient"))
    return told and not np.any(series(recording, f"gradient/{name}", "l2").values > 0)
