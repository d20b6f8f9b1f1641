"""Rules about a job that goes on, and about what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import EVAL, TRAIN, Span, epoch_means, first_rank, loss, plot, series
from finepoint.debugger.rules.result import RuleResult


@rule
@dataclass(frozen=True)
class StalledTrainingRule(Rule):
    """Nothing was recorded for `threshold` seconds.

    Of a job that runs, the time since the last record counts too, when `now` is given: the live judge gives it.

    Args:
        threshold: seconds. SageMaker's default.
        stop_training_on_fire: stop the job (`finepoint debug run --stop-on StalledTrainingRule` says the same).
        training_job_name_prefix: accepted for SageMaker's sake; here the job is known.
        now: seconds since 1970.
    """

    threshold: float = 1800.0
    stop_training_on_fire: bool = False
    training_job_name_prefix: str = ""
    now: float | None = None

    def judge(self, recording: Recording) -> RuleResult:
        losses = [loss(recording, mode) for mode in (TRAIN, EVAL)]
        seconds = series(recording, "step_seconds")
        known = [fact["time"] for fact in recording.facts()]
        times = np.sort(np.concatenate([item.times for item in (*losses, seconds)] + [np.array(known, float)]))
        if self.now is not None and not recording.ended:
            times = np.append(times, self.now)
        if len(times) < 2:
            return self.not_applicable("nothing was recorded")
        gaps = np.diff(times)
        over = np.flatnonzero(gaps > self.threshold)
        if not over.size:
            return self.clean(longest_gap_seconds=float(gaps.max()))
        before = times[over[0]]
        steps = losses[0].steps[losses[0].times <= before]
        return self.issue(
            int(steps[-1]) if steps.size else 0,
            "TRAIN",
            meaning=f"Nothing happened for {gaps[over[0]]:.0f} seconds.",
            remedy="`py-spy dump --pid PID` shows where it waits; a data loader's worker and a process that others "
            "wait for are the usual places",
            gap_seconds=float(gaps[over[0]]),
            threshold=self.threshold,
        )


@rule
@dataclass(frozen=True)
class EpochMetricMisscaled(Rule):
    """A logged loss of an epoch is a multiple of the mean of its batches' losses.

    The usual way to it is a sum over samples divided by the number of batches. Compared are numbers that are printed
    (or saved as scalars) under a name with `loss` in it, between the end of a pass and the beginning of the next of
    the same mode, with the mean loss of the pass. Fires when they differ by the batch size, the number of batches or
    of samples
    (within `tolerance`), and never when a number of that name agrees with a mean. Factors below four are left alone:
    they may be another loss.

    Args:
        tolerance: relative.
    """

    tolerance: float = 0.02

    def judge(self, recording: Recording) -> RuleResult:
        printed = list(_printed(recording))
        if not printed:
            return self.not_applicable("no number with `loss` in its name was printed or saved")
        judged = 0
        found: list[tuple[float, Span, str, str, float, float, str]] = []
        for mode in (TRAIN, EVAL):
            spans, means = epoch_means(recording, mode)
            for index, (span, mean) in enumerate(zip(spans, means, strict=True)):
                until = spans[index + 1].time if index + 1 < len(spans) else np.inf
                # Up to the first batch of the next pass, which ends at `until`.
                following = loss(recording, mode)
                later = following.times[following.steps > span.last]
                until = min(until, float(later[0])) if later.size else until
                for time, name, value, _ in printed:
                    if span.time - 0.05 <= time <= until and mean > 0:
                        judged += 1
                        factor = self._factor(recording, mode, span, value / mean)
                        found.append((time, span, mode.name, name, value, mean, factor))
        if not judged:
            return self.not_applicable("no loss was printed after a pass over the data had ended")
        # A line tells of several passes; a name that agrees with one of them is of that one.
        right = {name for *_, name, value, mean, _ in found if abs(value / mean - 1) < 5 * self.tolerance}
        wrong = [item for item in found if item[-1] and item[3] not in right]
        if not wrong:
            return self.clean(numbers=judged)
        _, span, mode_name, name, value, mean, factor = min(wrong, key=lambda item: item[0])
        losses = loss(recording, ModeKeys[mode_name])
        return self.issue(
            span.last,
            mode_name,
            meaning=f"{name} is given as {value:.4g}, but the mean loss of the batches is {mean:.4g}: {factor} times.",
            remedy="total += loss.item() * len(labels), and at the end total / len(dataset)",
            name=name,
            value=value,
            mean_batch_loss=mean,
            factor=value / mean,
            series=plot(losses),
        )

    def _factor(self, recording: Recording, mode: ModeKeys, span: Span, ratio: float) -> str:
        sizes = series(recording, "batch_size", None, mode)
        inside = sizes.values[(sizes.steps >= span.first) & (sizes.steps <= span.last)]
        if not inside.size:
            return ""
        batches, samples = len(inside), float(inside.sum())
        for factor, words in (
            (samples / batches, "the batch size"),
            (float(batches), "the number of batches"),
            (samples, "the number of samples"),
            (batches / samples, "one over the batch size"),
            (1.0 / batches, "one over the number of batches"),
        ):
            if max(factor, 1 / factor) >= 4 and abs(ratio / factor - 1) < self.tolerance:
                return f"{words} ({factor:.4g})"
        return ""


def _printed(recording: Recording) -> Iterator[tuple[float, str, float, str]]:
    """Yield (time, name, value, line) of each number whose name has `loss` in it."""
    for fact in recording.facts("line", rank=first_rank(recording)):
        numbers: dict[str, Any] = fact["numbers"]
        for name, value in numbers.items():
            if "loss" in name.lower() and isinstance(value, int | float):
                yield float(fact["time"]), name, float(value), fact["text"]
