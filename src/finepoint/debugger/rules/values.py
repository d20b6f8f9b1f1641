"""Rules about the values of tensors that the user chooses, and about how fast weights change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from finepoint.debugger.recording import Recording, Series, TensorPlace
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import TRAIN, collections_of, first_run, plot, series, trained_weights
from finepoint.debugger.rules.result import RuleResult

_CHOOSE = "say which tensors: collection_names=weights, or tensor_regex='fc.*'"
_REDUCTIONS = ("mean", "std", "l2", "abs_max", "min", "max")


@rule
@dataclass(frozen=True)
class AllZero(Rule):
    """At least `threshold` percent of a tensor's values are zero.

    Counted in whole tensors; else a recorded share of zeros, or an absolute maximum (or norm) of zero, stands for it.

    Args:
        collection_names: collections to look at; this or `tensor_regex` is needed.
        tensor_regex: names to look at.
        threshold: percent. SageMaker's default.
    """

    default: ClassVar[bool] = False
    collection_names: tuple[str, ...] = ()
    tensor_regex: tuple[str, ...] = ()
    threshold: float = 100.0

    def judge(self, recording: Recording) -> RuleResult:
        names = collections_of(recording, self.collection_names, self.tensor_regex)
        if not names:
            return self.not_applicable(f"no tensor was chosen; {_CHOOSE}")
        found, known, highest = [], 0, 0.0
        for name in names:
            percent = _zero_percent(recording, name)
            known += bool(len(percent))
            highest = max(highest, float(percent.values.max(initial=0)))
            over = np.flatnonzero(percent.values >= self.threshold)
            if over.size:
                found.append((int(percent.steps[over[0]]), name, percent))
        if not known:
            return self.not_applicable("neither whole tensors nor zero fractions nor norms of these were saved")
        if not found:
            return self.clean(tensors=known, highest_zero_percent=highest)
        step, name, percent = min(found, key=lambda item: item[:2])
        return self.issue(
            step,
            "TRAIN",
            meaning=f"{percent.values[percent.steps == step][0]:.0f}% of {name} is zero.",
            remedy="look at how it is initialised, and whether anything before it is dead",
            tensors=sorted(name for _, name, _ in found)[:10],
            series=plot(percent),
        )


@rule
@dataclass(frozen=True)
class UnchangedTensor(Rule):
    """A tensor has stayed the same over `num_steps` saved steps, as numpy.allclose tells it.

    Whole tensors are compared; else all recorded reductions (mean, standard deviation, norm, largest) must be the same,
    which no tensor that changes manages. Steps whose learning rate is below a hundredth of the highest do not count:
    at the end of a cosine nothing changes.

    Args:
        collection_names: collections to look at; this or `tensor_regex` is needed.
        tensor_regex: names to look at.
        num_steps: saved steps that are compared. SageMaker's default.
        rtol, atol, equal_nan: as numpy.allclose has them. SageMaker's defaults.
    """

    default: ClassVar[bool] = False
    collection_names: tuple[str, ...] = ()
    tensor_regex: tuple[str, ...] = ()
    num_steps: int = 3
    rtol: float = 1e-05
    atol: float = 1e-08
    equal_nan: bool = False

    def judge(self, recording: Recording) -> RuleResult:
        names = collections_of(recording, self.collection_names, self.tensor_regex)
        if not names:
            return self.not_applicable(f"no tensor was chosen; {_CHOOSE}")
        found, judged = [], 0
        for name in names:
            steps, same = self._same(recording, name)
            judged += len(steps) >= self.num_steps
            index = first_run(same, self.num_steps - 1)
            if index is not None:
                found.append((steps[index + 1], name))
        if not judged:
            return self.not_applicable(f"none of these was saved at {self.num_steps} steps")
        if not found:
            return self.clean(tensors=judged)
        step, name = min(found)
        return self.issue(
            step,
            "TRAIN",
            meaning=f"{len(found)} of {judged} tensors have stayed the same over {self.num_steps} saved steps, "
            f"{name} first.",
            remedy="is it in the optimizer, does it require a gradient, is the learning rate above zero?",
            tensors=sorted(name for _, name in found)[:10],
        )

    def _same(self, recording: Recording, name: str) -> tuple[list[int], np.ndarray]:
        """Return the steps at which a tensor was saved, and whether each but the first equals the one before."""
        places = recording.tensors(name, TRAIN)
        if places:
            arrays = [recording.tensor(name, place.step, TRAIN, rank=place.rank) for place in places]
            table = [array.ravel() for array in arrays]
            steps = [place.step for place in places]
        else:
            known = [series(recording, name, kind) for kind in _REDUCTIONS if kind in recording.reductions(name)]
            known = [item for item in known if len(item)]
            if not known:
                return [], np.zeros(0, bool)
            steps = known[0].steps.tolist()
            table = list(np.array([item.values for item in known if len(item) == len(steps)]).T)
        # Reductions of a tensor that changes by less than the tolerance may be closer than that: they must be equal.
        rtol, atol = (self.rtol, self.atol) if places else (0.0, 0.0)
        close = [
            np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=self.equal_nan)
            for a, b in zip(table[1:], table, strict=False)
        ]
        full = _at_full_rate(series(recording, "learning_rate/group0"), np.array(steps, np.int64))
        return steps, np.array(close, bool) & full[:-1]


@rule
@dataclass(frozen=True)
class TensorVariance(Rule):
    """A tensor's variance is above `max_threshold` or below `min_threshold`.

    Args:
        collection_names: collections to look at; this or `tensor_regex` is needed.
        tensor_regex: names to look at.
        max_threshold, min_threshold: bounds; SageMaker has none by default, so one is needed.
    """

    default: ClassVar[bool] = False
    collection_names: tuple[str, ...] = ()
    tensor_regex: tuple[str, ...] = ()
    max_threshold: float | None = None
    min_threshold: float | None = None

    def judge(self, recording: Recording) -> RuleResult:
        names = collections_of(recording, self.collection_names, self.tensor_regex)
        if not names:
            return self.not_applicable(f"no tensor was chosen; {_CHOOSE}")
        if self.max_threshold is None and self.min_threshold is None:
            return self.not_applicable("give max_threshold, min_threshold or both; there is no default")
        low = -np.inf if self.min_threshold is None else self.min_threshold
        high = np.inf if self.max_threshold is None else self.max_threshold
        found, known = [], []
        for name in names:
            variance = _variance(recording, name)
            known += [variance] if len(variance) else []
            out = np.flatnonzero(~((variance.values >= low) & (variance.values <= high)))
            if out.size:
                found.append((int(variance.steps[out[0]]), name, variance))
        if not known:
            return self.not_applicable("neither whole tensors nor variances nor standard deviations were saved")
        if not found:
            values = np.concatenate([item.values for item in known])
            return self.clean(lowest=float(values.min()), highest=float(values.max()))
        step, name, variance = min(found, key=lambda item: item[:2])
        return self.issue(
            step,
            "TRAIN",
            meaning=f"The variance of {name} is {variance.values[variance.steps == step][0]:.3g}.",
            remedy="look at the initialisation, and at what goes in; batch norm keeps variances near one",
            tensors=sorted(name for _, name, _ in found)[:10],
            series=plot(variance),
        )


@rule
@dataclass(frozen=True)
class WeightUpdateRatio(Rule):
    """A step changes a weight by more than `large_threshold` times its size, or by less than `small_threshold`.

    The ratio is the norm of the change over that of the weight. Where weights were saved whole it is the mean absolute
    change over the mean absolute value (with `epsilon` added), between saved steps `num_steps` apart.

    Where the documented default misfires: biases, scales and tokens begin at zero, and a zero learning rate, at the
    first step of a warm-up or the last of a cosine, changes nothing. So only weights count, only at steps whose
    learning rate is at least a hundredth of the highest, and only two (too large) or three saved steps (too small)
    in a row.

    Args:
        num_steps: steps between the weights compared, where they were saved whole; by default the last saved.
        large_threshold, small_threshold, epsilon: SageMaker's defaults.
    """

    num_steps: int | None = None
    large_threshold: float = 10.0
    small_threshold: float = 0.00000001
    epsilon: float = 0.000000001

    def judge(self, recording: Recording) -> RuleResult:
        ratios = {item.name: self._ratio(recording, item.name) for item in trained_weights(recording)}
        ratios = {name: ratio for name, ratio in ratios.items() if len(ratio)}
        if not ratios:
            return self.not_applicable("no update of a trained weight was saved")
        if max(map(len, ratios.values())) < 3:
            return self.not_applicable("updates of fewer than 3 steps were saved; save weights more often")
        rates = series(recording, "learning_rate/group0")
        found = []
        for name, ratio in ratios.items():
            full = _at_full_rate(rates, ratio.steps)
            large = ratio.values > self.large_threshold
            # What overflowed after such a step is more of the same; a weight that began at zero is not.
            large = np.isfinite(ratio.values) & large
            large |= ~np.isfinite(ratio.values) & np.maximum.accumulate(large)
            for word, flags, times in (("much", large, 2), ("little", ratio.values < self.small_threshold, 3)):
                index = first_run(flags & full, times)
                if index is not None:
                    found.append((int(ratio.steps[index]), name, word, ratio))
        if not found:
            last = np.concatenate([ratio.values for ratio in ratios.values()])
            return self.clean(lowest=float(last.min()), highest=float(last.max()))
        step, name, word, ratio = min(found, key=lambda item: item[:3])
        return self.issue(
            step,
            "TRAIN",
            meaning=f"A step changes {name} by {ratio.values[ratio.steps == step][0]:.2g} times its size: "
            f"too {word} to learn.",
            remedy=f"{'lower' if word == 'much' else 'raise'} the learning rate; a thousandth a step is a good size",
            weights=sorted({name for _, name, *_ in found})[:10],
            series=plot(ratio),
        )

    def _ratio(self, recording: Recording, name: str) -> Series:
        places = recording.tensors(name, TRAIN)
        if len(places) < 2:
            return series(recording, f"update_ratio/{name}")
        steps, at, values = [], [], []
        for index, place in enumerate(places):
            before = [known for known in places[:index] if place.step - known.step >= (self.num_steps or 1)]
            if before:
                old = recording.tensor(name, before[-1].step, TRAIN)
                new = recording.tensor(name, place.step, TRAIN)
                values.append(float(np.abs(new - old).mean() / (np.abs(old).mean() + self.epsilon)))
                steps.append(place.step)
                at.append(place.global_step)
        whole, zeros = np.array(steps, np.int64), np.zeros(len(steps))
        at_ = np.array(at, np.int64)
        return Series(f"update_ratio/{name}", TRAIN, "value", whole, np.array(values), at_, zeros, zeros.astype(int))


def _zero_percent(recording: Recording, name: str) -> Series:
    places = recording.tensors(name, TRAIN)
    if places:
        percent = [100 * float((recording.tensor(name, place.step, TRAIN) == 0).mean()) for place in places]
        return _made(name, places, percent)
    share = series(recording, f"zero_fraction/{name}")
    if len(share):
        return Series(name, TRAIN, "zero_percent", share.steps, 100 * share.values, *_rest(share))
    for reduction in ("abs_max", "l2", "abs_mean", "l1"):
        largest = series(recording, name, reduction)
        if len(largest):
            values = np.where(largest.values == 0, 100.0, 0.0)
            return Series(name, TRAIN, "zero_percent", largest.steps, values, *_rest(largest))
    return series(recording, f"zero_fraction/{name}")


def _variance(recording: Recording, name: str) -> Series:
    places = recording.tensors(name, TRAIN)
    if places:
        return _made(name, places, [float(recording.tensor(name, place.step, TRAIN).var()) for place in places])
    variance = series(recording, name, "variance")
    if len(variance):
        return variance
    std = series(recording, name, "std")
    return Series(name, TRAIN, "variance", std.steps, std.values**2, *_rest(std))


def _made(name: str, places: list[TensorPlace], values: list[float]) -> Series:
    steps = np.array([place.step for place in places], np.int64)
    at = np.array([place.global_step for place in places], np.int64)
    ranks = np.array([place.rank for place in places], np.int64)
    return Series(name, TRAIN, "value", steps, np.array(values), at, np.zeros(len(steps)), ranks)


def _rest(item: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return item.global_steps, item.times, item.ranks


def _at_full_rate(rates: Series, steps: np.ndarray) -> np.ndarray:
    """Return whether the learning rate was at least a hundredth of its highest at each step."""
    if not len(rates):
        return np.ones(len(steps), bool)
    at = np.clip(np.searchsorted(rates.steps, steps, "right") - 1, 0, len(rates) - 1)
    full: np.ndarray = rates.values[at] >= 0.01 * rates.values.max()
    return full
