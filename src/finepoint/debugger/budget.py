"""The budget: how much of a job's time recording may take, and which steps are saved so that it does not take more."""

from __future__ import annotations

import statistics
import time

from finepoint.debugger.modes import ModeKeys

# Of the job's time, by default.
BUDGET = 0.03
# What is recorded at every step may take so much of it; the rest is for saved steps.
_LIGHT_SHARE = 0.3
# Saving goes up to this part of the budget: what it costs elsewhere (cold caches), as much again as half of what is
# measured, cannot be measured.
_SAVED_SHARE = 0.55
# What getting to a callback and back costs beside the time that is measured inside it, in seconds; and what the
# patches cost in a step that is passed over. Both were measured with an empty callback on a 2.5 GHz core.
CALL_SECONDS = 1.5e-6
PASSED_OVER_SECONDS = 8e-6
_FIRST = (0, 1, 2, 4, 8)
# Steps after which the cost of what is recorded at every step is judged, by its median: a step in which the machine was
# elsewhere tells nothing of what recording costs. Below that part of its share more steps are recorded again.
_JUDGED_EVERY, _CHEAP = 50, 0.5
# For the same reason a saved step counts for no more than so many times what those before it cost.
_OUTLIER = 3.0


class Budget:
    """Decides which steps are saved, from what saving has cost so far.

    Args:
        share: of the job's time that may be spent.
        elapsed: seconds that the job has already taken.
    """

    def __init__(self, share: float = BUDGET, elapsed: float = 0.0) -> None:
        self.share = share
        self.spent = 0.0
        # Every so many steps the loss, the learning rate and the like are recorded.
        self.stride = 1
        self._began = time.perf_counter() - elapsed
        self._heavy: dict[ModeKeys, float] = {}
        self._light: list[float] = []
        self._judged_at = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the job, as far as it can be seen from here, began."""
        return time.perf_counter() - self._began

    @property
    def fraction(self) -> float:
        """What has been spent, as a share of the job's time without it."""
        without = self.elapsed - self.spent
        return self.spent / without if without > 0 else 0.0

    def affords(self, mode: ModeKeys, step: int) -> bool:
        """Return whether a step can be saved now.

        A mode's first step always is, and some of the first steps of training, for rules need several to judge.
        """
        if mode not in self._heavy or self.first(mode, step):
            return True
        return self.spent + self._heavy[mode] <= _SAVED_SHARE * self.share * self.elapsed

    def light(self, step: int) -> bool:
        """Return whether what costs next to nothing is recorded of a step: of a mode's first steps it always is."""
        return step < _JUDGED_EVERY or step % self.stride == 0

    def first(self, mode: ModeKeys, step: int) -> bool:
        """Return whether a step is one of the first few that are saved whatever it costs."""
        return mode is ModeKeys.TRAIN and step in _FIRST

    def step_ended(self, mode: ModeKeys, heavy: bool, seconds: float) -> bool:
        """Take note of what a step has cost; return whether `stride` has changed."""
        if heavy:
            known = self._heavy.get(mode)
            self._heavy[mode] = seconds if known is None else 0.5 * (known + min(seconds, _OUTLIER * known))
            return False
        self._light.append(seconds)
        if len(self._light) < _JUDGED_EVERY:
            return False
        passed = self.elapsed - self._judged_at
        cost = statistics.median(self._light) * len(self._light)
        load = cost / max(passed, 1e-9) / (self.share * _LIGHT_SHARE)
        self._light, self._judged_at = [], self.elapsed
        before = self.stride
        if load > 1:
            self.stride = min(1024, max(self.stride + 1, round(self.stride * load)))
        elif load < _CHEAP:
            self.stride = max(1, round(self.stride * load / _CHEAP))
        return self.stride != before
