"""Rules about how the loss goes: not down, down in training only, or not any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording, Series
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.learning_rate import median_ratio
from finepoint.debugger.rules.reading import EVAL, TRAIN, Span, epoch_means, epochs, loss, plot, series
from finepoint.debugger.rules.result import RuleResult

# A loss below this share of its beginning has decreased, whatever it does now.
_DECREASED = 0.97
# Fewer losses than that have no mean worth comparing.
_FEWEST_STEPS = 4
# A plain network may stay for so many steps where guessing is before it begins to learn; only one whose weights do not
# move, or whose loss rises, is known sooner to get nowhere.
_SLOW_START = 192
_STILL = 1e-5
_NOISE = 0.85
# Passes from each of which to the next the loss rises.
_RISES = 3


@rule
@dataclass(frozen=True)
class LossNotDecreasing(Rule):
    """The loss does not come down.

    In training the mean loss of successive windows of `num_steps` steps (at most a third of a pass over the data, at
    least 4) is compared with that of the first; in evaluation the means of whole passes are. Fires when two windows
    in a row are not below the first by `diff_percent` (at least 3 percent: less is noise).

    A flat loss counts from step 192 on (plain networks may need as long before they begin to learn), sooner where it
    rises by a tenth, or rises from pass to pass in training and in evaluation alike, or the weights do not move.

    Where the documented default misfires: two batches `num_steps` apart differ by chance, and a loss that came down and
    has stayed down since need not decrease further. So windows and passes are compared, and with the beginning. In
    evaluation it takes three passes, and that training did not come down either: that it does only there is
    overfitting.

    Args:
        collection_names: collections of losses; by default `losses`.
        tensor_regex: names of losses.
        use_losses_collection: look at the collection `losses`. SageMaker's default.
        num_steps: steps between comparisons. SageMaker's default.
        diff_percent: by how much the loss should come down.
        mode: TRAIN, EVAL, or by default whichever shows it first.
    """

    collection_names: tuple[str, ...] = ()
    tensor_regex: tuple[str, ...] = ()
    use_losses_collection: bool = True
    num_steps: int = 10
    diff_percent: float = 0.0
    mode: str | None = None

    def judge(self, recording: Recording) -> RuleResult:
        names = [name for name in self.collection_names if self.use_losses_collection or name != "losses"]
        chosen = sorted(
            {name for wanted in names for name in recording.names(collection=wanted)}
            | {name for regex in self.tensor_regex for name in recording.names(regex)}
        )
        if self.mode in (None, "TRAIN", "GLOBAL"):
            losses = series(recording, chosen[0]) if chosen else loss(recording)
            window = self._window(recording)
            if len(losses) >= 3 * window:
                found = self._windows(recording, losses, window)
                return found if found.fired else self._passes(recording, losses) or found
            if self.mode is not None or len(losses) < 3 * _FEWEST_STEPS:
                return self.not_applicable(f"{len(losses)} losses were recorded; it takes {3 * window}")
        spans, means = epoch_means(recording, EVAL)
        if len(means) < 3:
            return self.not_applicable(f"{len(means)} passes of evaluation were recorded; it takes 3")
        over = np.flatnonzero(np.minimum.accumulate(means)[2:] >= means[0] * self._factor())
        if over.size:
            span = spans[over[0] + 2]
            return self._found(span.last, EVAL, float(means[0]), float(means[over[0] + 2]), loss(recording, EVAL))
        return self.clean(first=float(means[0]), lowest=float(means.min()))

    def _windows(self, recording: Recording, losses: Series, window: int) -> RuleResult:
        count = len(losses) // window
        means = losses.values[: count * window].reshape(count, window).mean(1)
        means = np.nan_to_num(means, nan=np.inf, posinf=np.inf)
        lowest = np.minimum.accumulate(means)
        late = np.arange(len(means)) * window >= _SLOW_START - window
        rising = means > 1.1 * means[0]
        still = self._stands_still(recording)
        # Where no weight moves a lower loss is another batch.
        factor = min(_NOISE, self._factor()) if still else self._factor()
        over = np.flatnonzero((lowest >= means[0] * factor)[2:] & (late | rising | still)[2:])
        if over.size:
            step = int(losses.steps[(over[0] + 3) * window - 1])
            return self._found(step, TRAIN, float(means[0]), float(means[over[0] + 2]), losses)
        return self.clean(first=float(means[0]), lowest=float(lowest[-1]))

    def _passes(self, recording: Recording, losses: Series) -> RuleResult | None:
        span = rising(recording)
        if span is None:
            return None
        means = epoch_means(recording, EVAL)[1]
        return self._found(span.last, EVAL, float(means[0]), float(means[_RISES - 1]), losses)

    def _stands_still(self, recording: Recording) -> bool:
        ratio = median_ratio(recording)
        told = recording.facts("optimizer")
        return bool(len(ratio) and np.median(ratio.values) < _STILL) or bool(told and not len(ratio))

    def _factor(self) -> float:
        return min(_DECREASED, 1 - self.diff_percent / 100)

    def _window(self, recording: Recording) -> int:
        spans = epochs(recording)
        longest = spans[0].last - spans[0].first + 1 if spans else 10**9
        return max(_FEWEST_STEPS, min(self.num_steps, longest // 3))

    def _found(self, step: int, mode: ModeKeys, first: float, now: float, losses: Series) -> RuleResult:
        return self.issue(
            step,
            mode.name,
            meaning=f"The loss was {first:.3g} at the beginning and is {now:.3g} now: nothing is learnt.",
            remedy="are the parameters in the optimizer, do the labels belong to the images, is the learning rate "
            "neither too high nor too low? The other findings may say which",
            first=first,
            now=now,
            series=plot(losses),
        )


@rule
@dataclass(frozen=True)
class Overfit(Rule):
    """The validation loss rises while the training loss goes on falling.

    As documented, validation loss exceeds training loss by more than `ratio_threshold` of it for more than `patience`
    evaluations in a row. That alone is what most sound trainings look like at their end, so it must also have risen
    above its lowest by `ratio_threshold`, beyond its own noise, while the training loss did not.

    Args:
        tensor_regex: the losses; by default the one that is computed most often.
        start_step: the training step from which to compare. SageMaker's default.
        patience: evaluations that are allowed. SageMaker's default.
        ratio_threshold: SageMaker's default.
    """

    tensor_regex: tuple[str, ...] = ()
    start_step: int = 0
    patience: int = 1
    ratio_threshold: float = 0.1

    def judge(self, recording: Recording) -> RuleResult:
        pairs = _evaluations(recording, self.start_step)
        if len(pairs) < self.patience + 2:
            return self.not_applicable(
                f"{len(pairs)} evaluations with a training loss before them were recorded; it takes {self.patience + 2}"
            )
        train, valid = (np.array([pair[index] for pair in pairs]) for index in (1, 2))
        noise = np.array([pair[3] for pair in pairs])
        best = np.minimum.accumulate(valid)
        gap = (valid - train) / np.maximum(train, 1e-12) > self.ratio_threshold
        risen = (valid > best * (1 + self.ratio_threshold)) & (valid > best + 2 * noise)
        at_best = np.array([train[int(np.argmin(valid[: index + 1]))] for index in range(len(valid))])
        falling = train < at_best
        run = 0
        for index, flag in enumerate(gap & risen & falling):
            run = run + 1 if flag else 0
            if run > self.patience:
                return self._found(recording, pairs[index][0], train, valid, index)
        return self.clean(train_loss=float(train[-1]), valid_loss=float(valid[-1]), lowest_valid_loss=float(best[-1]))

    def _found(self, recording: Recording, span: Span, train: np.ndarray, valid: np.ndarray, index: int) -> RuleResult:
        return self.issue(
            span.last,
            "EVAL",
            meaning=f"The validation loss has risen from {valid[: index + 1].min():.3g} to {valid[index]:.3g} while "
            f"the training loss fell to {train[index]:.3g}: the training images are learnt by heart.",
            remedy=f"stop after evaluation {int(np.argmin(valid[: index + 1])) + 1}, augment, add weight decay or "
            "dropout, or get more images",
            best_evaluation=int(np.argmin(valid[: index + 1])) + 1,
            valid_losses=valid[: index + 1][-10:].tolist(),
            train_losses=train[: index + 1][-10:].tolist(),
            series=[*plot(loss(recording)), *plot(loss(recording, EVAL))],
        )


@rule
@dataclass(frozen=True)
class Overtraining(Rule):
    """Training went on long after it had stopped helping.

    Fires when the validation loss has not come `delta` below its lowest for more than `patience_validation` evaluations
    and the training loss not below its own for more than `patience_train` passes, or has while the validation loss
    rose.

    SageMaker's `delta` of 0.1 is a difference of losses; a loss of 0.2 then counts as stuck the moment it is reached.
    Here it is that share of the lowest loss.

    Args:
        patience_train: passes. SageMaker's default.
        patience_validation: evaluations. SageMaker's default.
        delta: share of the lowest loss by which it has to improve.
    """

    patience_train: int = 5
    patience_validation: int = 10
    delta: float = 0.1

    def judge(self, recording: Recording) -> RuleResult:
        pairs = _evaluations(recording, 0)
        if len(pairs) <= self.patience_validation:
            return self.not_applicable(
                f"{len(pairs)} evaluations were recorded; it takes more than {self.patience_validation}"
            )
        train, valid = (np.array([pair[index] for pair in pairs]) for index in (1, 2))
        still, stuck = self._without_improvement(valid), self._without_improvement(train)
        worse = valid > np.minimum.accumulate(valid) * (1 + self.delta)
        over = np.flatnonzero((still > self.patience_validation) & ((stuck > self.patience_train) | worse))
        if not over.size:
            return self.clean(evaluations_without_improvement=int(still[-1]))
        index = int(over[0])
        best = int(np.argmin(valid[: index + 1])) + 1
        return self.issue(
            pairs[index][0].last,
            "EVAL",
            meaning=f"The validation loss was lowest after evaluation {best} of {len(valid)}; what came after it "
            "helped nothing.",
            remedy=f"train for {best} epochs, or stop when the validation loss has not improved for a few",
            best_evaluation=best,
            evaluations=len(valid),
            series=plot(loss(recording, EVAL)),
        )

    def _without_improvement(self, values: np.ndarray) -> np.ndarray:
        """Return for how many values each has followed the last that was `delta` below the lowest before it."""
        best, since, counts = np.inf, 0, []
        for value in values:
            if value < best * (1 - self.delta) or not np.isfinite(best):
                best, since = value, 0
            else:
                since += 1
            counts.append(since)
        return np.array(counts)


def rising(recording: Recording) -> Span | None:
    """Return the pass of evaluation by which the loss has risen in each of three passes, in training as well."""
    spans, valid = epoch_means(recording, EVAL)
    train = epoch_means(recording)[1]
    if min(len(train), len(valid)) < _RISES:
        return None
    both = np.concatenate([np.diff(train[:_RISES]), np.diff(valid[:_RISES])])
    return spans[_RISES - 1] if (both > 0).all() else None


def _evaluations(recording: Recording, start_step: int) -> list[tuple[Span, float, float, float]]:
    """Return (pass, training loss up to it, its loss, the standard error of that) of each pass of evaluation.

    Where validation and test parts are both evaluated, only the passes of the first loader count.
    """
    losses, evaluated = loss(recording), loss(recording, EVAL)
    spans, means = epoch_means(recording, EVAL)
    first = {fact["first_step"]: fact["loader"] for fact in recording.facts("pass") if fact["mode"] == "EVAL"}
    rows: list[tuple[Span, float, float, float]] = []
    since, chosen = -1, None
    for span, mean in zip(spans, means, strict=True):
        at = evaluated.global_steps[evaluated.steps == span.first]
        chosen = first.get(span.first) if chosen is None else chosen
        before = (losses.global_steps > since) & (losses.global_steps < (at[0] if at.size else 0))
        before &= losses.steps >= start_step
        if not before.any():
            continue  # a second part, evaluated after the first
        inside = evaluated.values[(evaluated.steps >= span.first) & (evaluated.steps <= span.last)]
        error = float(inside.std() / np.sqrt(len(inside))) if len(inside) > 1 else 0.0
        rows.append((span, float(losses.values[before].mean()), float(mean), error))
        since = int(at[0])
    return rows
