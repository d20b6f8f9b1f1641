"""Rules about the size of the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from finepoint.debugger.recording import Recording, Series
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import TRAIN, loss, plot, series, smooth, trained_weights
from finepoint.debugger.rules.result import RuleResult

# A step that changes a weight by a thousandth is of a good size (Karpathy, "A Recipe for Training Neural Networks").
_GOOD_RATIO = 1e-3
# Steps over which a loss is averaged before it is compared.
_WINDOW = 10
# A loss that rose so far is known after so many steps to have been thrown off, not to have been shaken.
_FAR, _AT_ONCE = 10.0, 12


@rule
@dataclass(frozen=True)
class LearningRateTooHigh(Rule):
    """Steps are so large that the loss diverges, or jumps about and does not come down.

    Fires when, after `steps` steps, the mean loss of ten steps is not below nine tenths of what it was at the beginning
    and is not falling (not a fifth below that of the ten before), although, or because, the weights moved a lot: they
    changed by `large_ratio` of their size in a step, or the loss rose to twice what it was at the beginning.

    A loss of ten times the beginning is found after twelve steps already. One that leaps in the first steps and then
    comes down is left alone: Adam does that at rates that work. One that has not come below its beginning when the job
    ends is not, even if it is still falling.

    Args:
        steps: to wait.
        large_ratio: change of the median weight in one step, of its norm.
    """

    steps: int = 20
    large_ratio: float = 0.2

    def judge(self, recording: Recording) -> RuleResult:
        losses = loss(recording)
        soonest = min(self.steps, _AT_ONCE)
        if len(losses) < soonest:
            return self.not_applicable(f"{len(losses)} losses were recorded; it takes {soonest}")
        values = np.nan_to_num(losses.values, nan=np.inf, posinf=np.inf)
        # The second loss may be beyond the leap already; and what begins above guessing has yet to come down to it.
        begin = min(float(values[0]), _guessing(recording))
        means = smooth(np.minimum(values, 1e30), _WINDOW)
        ratio = median_ratio(recording)
        if not len(ratio):
            return self.not_applicable("no update of a trained weight was saved")
        for end in range(soonest - 1, len(values)):
            mean, before = means[end - _WINDOW + 1], means[max(0, end - 2 * _WINDOW + 1)]
            at_the_end = recording.ended and end == len(values) - 1
            if mean < 0.9 * begin or (mean < 0.8 * before and not at_the_end):
                continue
            seen = ratio.values[ratio.steps <= losses.steps[end]]
            moved = float(np.sort(seen)[-2]) if len(seen) > 1 else 0.0
            peak = float(values[: end + 1].max())
            if end < self.steps - 1 and peak < _FAR * begin:
                continue
            if moved >= self.large_ratio or peak >= 2 * begin:
                return self._found(recording, losses, int(losses.steps[end]), ratio, begin, mean, peak, moved)
        return self.clean(first_loss=begin, last_loss=float(means[-1]), largest_median_update=float(ratio.values.max()))

    def _found(
        self,
        recording: Recording,
        losses: Series,
        step: int,
        ratio: Series,
        begin: float,
        mean: float,
        peak: float,
        moved: float,
    ) -> RuleResult:
        rate = learning_rate(recording)
        wanted = rate * min(0.1, 5 * _GOOD_RATIO / max(moved, 1e-9))
        return self.issue(
            step,
            "TRAIN",
            meaning=f"The loss began at {begin:.3g}, rose to {peak:.3g} and is {mean:.3g}: steps of {moved:.2g} times "
            "the weights jump over what they are to find.",
            remedy=f"lr={_one_digit(wanted)} instead of {rate:g}",
            first_loss=begin,
            highest_loss=peak,
            loss=mean,
            median_update=moved,
            learning_rate=rate,
            suggested_learning_rate=_one_digit(wanted),
            series=[*plot(losses), *plot(ratio)],
        )


@rule
@dataclass(frozen=True)
class LearningRateTooLow(Rule):
    """Steps are so small that nothing moves.

    Fires when in `saved` saved steps the median weight never changed by more than `small_ratio` of its norm, the loss
    has come down by less than a tenth, and the gradients are not to blame: relative to the weights they are there.
    Steps of a warm-up, whose learning rate is below a tenth of the highest so far, do not count.

    Args:
        small_ratio: change of the median weight in one step, of its norm.
        saved: saved steps to wait.
    """

    small_ratio: float = 1e-4
    saved: int = 3

    def judge(self, recording: Recording) -> RuleResult:
        losses, ratio = loss(recording), median_ratio(recording)
        if not len(ratio) or not len(losses):
            return self.not_applicable("no loss, or no update of a trained weight, was saved")
        rates = series(recording, "learning_rate/group0")
        if len(rates):
            at = rates.values[np.clip(np.searchsorted(rates.steps, ratio.steps, "right") - 1, 0, len(rates) - 1)]
            full = at >= 0.1 * rates.values.max()
            ratio = Series(
                ratio.name, TRAIN, "value", ratio.steps[full], ratio.values[full], ratio.global_steps[full],
                ratio.times[full], ratio.ranks[full],
            )  # fmt: skip
        if len(losses) < _WINDOW:
            return self.not_applicable(f"{len(losses)} losses were recorded; it takes {_WINDOW}")
        if len(ratio) < self.saved:
            return self.not_applicable(f"updates of {len(ratio)} steps were saved; it takes {self.saved}")
        step = int(max(ratio.steps[self.saved - 1], losses.steps[_WINDOW - 1]))
        if not (np.isfinite(ratio.values).all() and np.isfinite(losses.values).all()):
            return self.not_applicable("losses or updates are not finite")
        moved = float(ratio.values[ratio.steps <= step].max())
        if float(ratio.values.max()) >= self.small_ratio:
            return self.clean(largest_median_update=float(ratio.values.max()))
        means = smooth(losses.values, _WINDOW)
        if means[-1] < 0.9 * means[0]:
            return self.clean(first_loss=float(means[0]), last_loss=float(means[-1]))
        pull = _relative_gradient(recording)
        if pull < self.small_ratio:
            return self.clean(median_relative_gradient=pull)
        rate = learning_rate(recording)
        wanted = _one_digit(rate * _GOOD_RATIO / moved) if moved > 0 and rate > 0 else None
        remedy = f"lr={wanted} instead of {rate:g}" if wanted else "give the optimizer a learning rate above zero"
        return self.issue(
            step,
            "TRAIN",
            meaning=f"A step changes the weights by {moved:.1g} of their size: the loss stays at {means[-1]:.3g}.",
            remedy=remedy,
            median_update=moved,
            learning_rate=rate,
            **({"suggested_learning_rate": wanted} if wanted else {}),
            series=[*plot(losses), *plot(ratio)],
        )


def median_ratio(recording: Recording) -> Series:
    """Return, at each saved step, the median over the trained weights of how much of its norm a step changed."""
    found = [series(recording, f"update_ratio/{item.name}") for item in trained_weights(recording)]
    found = [item for item in found if len(item)]
    if not found:
        return series(recording, "update_ratio/none")
    longest = max(found, key=len)
    table = np.array([item.values for item in found if len(item) == len(longest)])
    rest = (longest.global_steps, longest.times, longest.ranks)
    return Series("update_ratio of the median weight", TRAIN, "value", longest.steps, np.median(table, 0), *rest)


def learning_rate(recording: Recording) -> float:
    """Return the highest learning rate of the first group, as it was used; 0 where none was recorded."""
    rates = series(recording, "learning_rate/group0")
    return float(rates.values.max()) if len(rates) else 0.0


def _guessing(recording: Recording) -> float:
    """Return a little more than the loss of guessing among the classes; infinity where there are none."""
    classes = [fact["classes"] for fact in recording.facts("labels") if fact.get("classes")]
    return 1.1 * math.log(classes[0]) if classes and classes[0] > 1 else math.inf


def _relative_gradient(recording: Recording) -> float:
    """Return the median over the trained weights of the gradient's norm over the weight's, at the first saved step."""
    pulls = []
    for item in trained_weights(recording):
        gradient, weight = series(recording, f"gradient/{item.name}", "l2"), series(recording, item.name, "l2")
        if len(gradient) and len(weight) and weight.values[0] > 0:
            pulls.append(float(gradient.values[0] / weight.values[0]))
    return float(np.median(pulls)) if pulls else math.inf


def _one_digit(value: float) -> float:
    return float(f"{value:.0e}")
