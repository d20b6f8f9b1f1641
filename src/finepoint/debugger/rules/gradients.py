"""Rules about gradients: too small to learn from, or never cleared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finepoint.debugger.recording import Recording, Series
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import TRAIN, first_run, loss, parameters, plot, series, trained_weights
from finepoint.debugger.rules.result import RuleResult

# A loss that has come down to this share of its beginning has done its work: its gradients may vanish.
_CONVERGED = 0.05
# Saved steps in a row: the gradient of one batch may be small by chance.
_IN_A_ROW = 3


@rule
@dataclass(frozen=True)
class VanishingGradient(Rule):
    """The gradient of a weight is too small to move it.

    Fires when the mean of the absolute gradient of a weight stays below `threshold` at three saved steps in a row, and
    when it is in the same way `ratio_threshold` below that of the layer with the largest (relative to the weights).

    Where the documented default misfires: biases in front of a batch norm and keys' biases have no gradient by
    construction, frozen parameters have none by intention, and at the end of a training that succeeded gradients are
    small. So only weights that are trained are looked at, and only while the loss is above a twentieth of its
    beginning. A large layer's mean gradient may be small while the layer learns well; so its norm must also be below a
    ten-thousandth of the weight's.

    Args:
        threshold: of the mean absolute gradient. SageMaker's default.
        ratio_threshold: of a layer's gradient, relative to its weights, against the largest layer's; ours
            (AutoTrainer compares the first and last layer likewise).
    """

    threshold: float = 1e-7
    ratio_threshold: float = 1e-5

    def judge(self, recording: Recording) -> RuleResult:
        weights = trained_weights(recording)
        means = {item.name: series(recording, f"gradient/{item.name}", "abs_mean") for item in weights}
        means = {name: values for name, values in means.items() if len(values)}
        if not means:
            return self.not_applicable("no gradient of a trained weight was saved")
        if max(len(values) for values in means.values()) < _IN_A_ROW:
            return self.not_applicable(
                f"gradients of fewer than {_IN_A_ROW} steps were saved; save them more often than every "
                f"{_interval(recording)} steps"
            )
        relative = {name: _relative(recording, name) for name in means}
        largest = _largest(relative)
        found: list[tuple[int, str, Series]] = []
        for name, values in means.items():
            early = ~_converged(recording, values.steps)
            tiny = (values.values < self.threshold) & (_at(relative[name], values.steps) < 1e-4)
            behind = _at(relative[name], values.steps) < self.ratio_threshold * _at(largest, values.steps)
            index = first_run((tiny | behind) & early, _IN_A_ROW)
            if index is not None:
                found.append((int(values.steps[index]), name, values))
        if not found:
            lowest = min(float(np.median(values.values)) for values in means.values())
            return self.clean(smallest_median_gradient=lowest)
        step, name, values = min(found)
        return self.issue(
            step,
            "TRAIN",
            meaning=f"The gradients of {len(found)} of {len(means)} weights are too small to move them.",
            remedy="put batch norm or residual connections between the layers, ReLU instead of sigmoid or tanh, and "
            "initialise with torch.nn.init.kaiming_normal_",
            weights=[name for _, name, _ in sorted(found)][:10],
            mean_absolute_gradient=float(values.values[values.steps == step][0]),
            threshold=self.threshold,
            series=plot(values),
        )


@rule
@dataclass(frozen=True)
class GradientsNotZeroed(Rule):
    """Gradients of earlier steps are still there when the next are added.

    Fires when, after `steps` optimizer steps, most of them were followed by a backward pass that began with the
    gradients that had just been applied. Accumulating over several batches before a step is not that. Clearing by hand
    (`parameter.grad = None`) is seen as clearing.

    Args:
        steps: optimizer steps to look at before saying so.
    """

    steps: int = 3

    def judge(self, recording: Recording) -> RuleResult:
        stale = series(recording, "stale_gradients")
        if len(stale) < self.steps:
            return self.not_applicable(f"fewer than {self.steps} optimizer steps followed by a backward pass were seen")
        share = np.cumsum(stale.values > 0) / np.arange(1, len(stale) + 1)
        over = np.flatnonzero((share > 0.5) & (np.arange(1, len(stale) + 1) >= self.steps))
        if not over.size:
            return self.clean(share_of_steps=float(share[-1]))
        names = [item.name for item in parameters(recording) if item.trainable]
        norms = [series(recording, f"gradient/{name}", "l2") for name in names]
        return self.issue(
            int(stale.steps[over[0]]),
            "TRAIN",
            meaning="Gradients are added to those of earlier steps: each step goes on in all former directions.",
            remedy="call optimizer.zero_grad() before loss.backward()",
            share_of_steps=float(share[over[0]]),
            series=plot(max(norms, key=len)) if norms else [],
        )


def _relative(recording: Recording, name: str) -> Series:
    """Return the norm of a parameter's gradient over that of the parameter, at the gradient's steps."""
    gradient = series(recording, f"gradient/{name}", "l2")
    weight = series(recording, name, "l2")
    norms = _at(weight, gradient.steps)
    values = gradient.values / np.where(norms > 0, norms, np.nan)
    return Series(name, TRAIN, "relative", gradient.steps, values, *_rest(gradient))


def _rest(item: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return item.global_steps, item.times, item.ranks


def _at(item: Series, steps: np.ndarray) -> np.ndarray:
    """Return a series' values at some steps; NaN where it has none."""
    known = dict(zip(item.steps.tolist(), item.values.tolist(), strict=True))
    return np.array([known.get(step, np.nan) for step in steps.tolist()])


def _largest(relative: dict[str, Series]) -> Series:
    longest = max(relative.values(), key=len)
    table = np.array([_at(item, longest.steps) for item in relative.values()])
    table = np.where(np.isfinite(table), table, 0)
    return Series("largest", TRAIN, "relative", longest.steps, table.max(0), *_rest(longest))


def _converged(recording: Recording, steps: np.ndarray) -> np.ndarray:
    losses = loss(recording)
    if len(losses) < 2:
        return np.zeros(len(steps), bool)
    begin = float(np.mean(losses.values[:3]))
    lowest = np.minimum.accumulate(losses.values)
    at = np.clip(np.searchsorted(losses.steps, steps, "right") - 1, 0, len(losses) - 1)
    reached: np.ndarray = lowest[at] < _CONVERGED * begin
    return reached


def _interval(recording: Recording) -> int:
    steps = recording.steps(TRAIN)
    return max(1, (steps[-1] - steps[0]) // max(1, len(steps) - 1)) if steps else 1
