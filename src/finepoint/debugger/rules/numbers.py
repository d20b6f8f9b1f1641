"""Rules about numbers that are none: NaN and infinity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import EVAL, TRAIN, collections_of, loss, plot, series
from finepoint.debugger.rules.result import RuleResult

# Not what was computed of tensors (a bias that begins at zero has an infinite update ratio), nor what was logged.
_TENSORS = "^(?!(scalar|update_ratio|zero_fraction|dead_fraction|saturated_fraction|learning_rate)/)"
_REMEDY = (
    "lower the learning rate, clip gradients (torch.nn.utils.clip_grad_norm_), and look for log, sqrt or a division "
    "of something that may be zero; torch.autograd.set_detect_anomaly(True) names the operation"
)


@rule
@dataclass(frozen=True)
class ExplodingTensor(Rule):
    """A tensor holds NaN or infinity.

    Gradients that a loss scaler finds infinite and skips (mixed precision) are not seen by the optimizer and do not
    count.

    Args:
        collection_names: only tensors of these collections; by default all that were recorded.
        tensor_regex: and those whose names match.
        only_nan: infinity is allowed.
    """

    collection_names: tuple[str, ...] = ()
    tensor_regex: tuple[str, ...] = ()
    only_nan: bool = False

    def judge(self, recording: Recording) -> RuleResult:
        if self.collection_names or self.tensor_regex:
            names = collections_of(recording, self.collection_names, self.tensor_regex)
        else:
            names = recording.names(_TENSORS)
        names = [name.removeprefix("nonfinite/") for name in names]
        found = []
        for name in sorted(set(names)):
            for mode in (TRAIN, EVAL):
                step = self._first(recording, name, mode)
                if step is not None:
                    found.append((*step, mode.name, name))
        if not names:
            return self.not_applicable("no tensor of that name or collection was recorded")
        if not found:
            return self.clean(tensors=len(set(names)))
        _, step_, mode_, name = min(found)
        return self.issue(
            step_,
            mode_,
            meaning=f"{len({item[-1] for item in found})} tensors hold NaN or infinity, {name} first.",
            remedy=_REMEDY,
            tensors=sorted({item[-1] for item in found})[:10],
        )

    def _first(self, recording: Recording, name: str, mode: ModeKeys) -> tuple[int, int] | None:
        """Return the first (global step, step) at which a tensor was not finite."""
        best: tuple[int, int] | None = None
        counted = series(recording, f"nonfinite/{name}", None, mode)
        for reduction in ("value", "mean", "min", "max", "std", "l2", "abs_mean", "abs_max"):
            values = series(recording, name, reduction, mode)
            bad = np.isnan(values.values) if self.only_nan else ~np.isfinite(values.values)
            best = _earlier(best, values.global_steps[bad], values.steps[bad])
        if not self.only_nan:
            some = counted.values > 0
            best = _earlier(best, counted.global_steps[some], counted.steps[some])
        for place in recording.tensors(name, mode):
            array = recording.tensor(name, place.step, mode, rank=place.rank)
            if np.isnan(array).any() or not (self.only_nan or np.isfinite(array).all()):
                best = _earlier(best, np.array([place.global_step]), np.array([place.step]))
                break
        return best


@rule
@dataclass(frozen=True)
class NotANumber(Rule):
    """NaN or infinity appeared, and this is the module in which it appeared first."""

    def judge(self, recording: Recording) -> RuleResult:
        facts = sorted(recording.facts("nonfinite"), key=lambda fact: float(fact["time"]))
        if facts:
            fact = facts[0]
            place = f"module {fact['module']!r}" if fact.get("module") else f"{fact['name']!r}"
            losses = loss(recording)
            return self.issue(
                int(fact["step"] or 0),
                fact["mode"] or "TRAIN",
                meaning=f"NaN or infinity appeared first in the {fact['what']} of {place}.",
                remedy=_REMEDY if fact["what"] != "input" else "look at the images and labels of that batch",
                name=fact["name"],
                what=fact["what"],
                module=fact.get("module"),
                series=plot(losses),
            )
        losses = loss(recording)
        if not len(losses):
            return self.not_applicable("no loss was recorded")
        return self.clean(losses=len(losses))


def _earlier(best: tuple[int, int] | None, at: np.ndarray, steps: np.ndarray) -> tuple[int, int] | None:
    if not at.size:
        return best
    candidate = (int(at[0]), int(steps[0]))
    return candidate if best is None else min(best, candidate)
