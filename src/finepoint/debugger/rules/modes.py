"""Rules about training and evaluating in the right mode, on the right images."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import EVAL, first_rank, loss, modules, plot, series
from finepoint.debugger.rules.result import RuleResult


@rule
@dataclass(frozen=True)
class FrozenBatchNormDrift(Rule):
    """The running statistics of a batch norm move while its weights are frozen.

    The frozen layers behind it were trained with the old statistics; a backbone left in train mode forgets them within
    an epoch. Fires when they have changed by more than `threshold` of their norm between two saved steps.

    Args:
        threshold: relative change of the mean or the variance.
    """

    threshold: float = 1e-6

    def judge(self, recording: Recording) -> RuleResult:
        norms = [module for module in modules(recording) if "BatchNorm" in module.type]
        frozen = [module for module in norms if module.frozen]
        if not frozen:
            return self.not_applicable("no batch norm is frozen" if norms else "the model has no batch norm")
        found, judged, worst = [], 0, 0.0
        for module in frozen:
            for part in ("running_mean", "running_var"):
                name = f"batch_norm/{module.name}.{part}"
                size = series(recording, name, "l2")
                moved = _change(size, series(recording, name, "mean"))
                judged += moved.size > 0
                worst = max(worst, float(moved.max(initial=0.0)))
                over = np.flatnonzero(moved > self.threshold)
                if over.size:
                    found.append((int(size.steps[over[0] + 1]), module.name, part, size))
        if not judged:
            return self.not_applicable("running statistics of fewer than two steps were saved")
        if not found:
            return self.clean(frozen_batch_norms=len(frozen), largest_change=worst)
        step, name, part, size = min(found, key=lambda item: item[:3])
        drifted = sorted({name for _, name, *_ in found})
        return self.issue(
            step,
            "TRAIN",
            meaning=f"The running statistics of {len(drifted)} of {len(frozen)} frozen batch norms move: the backbone "
            "is in train mode, and what was learnt with the old statistics is lost.",
            remedy="after model.train(), put the frozen part back: backbone.eval()",
            modules=drifted[:10],
            change=worst,
            series=plot(size),
        )


@rule
@dataclass(frozen=True)
class RandomEvaluation(Rule):
    """The same evaluation sample is another in each pass: something random is done to it.

    Seen in the first pass where a sample was read twice with different random states, else at the second pass, by the
    fingerprints of the samples. Samples that were merely drawn in another order are the same.

    Args:
        share: of a pass's samples that must have been in the pass before.
    """

    share: float = 0.5

    def judge(self, recording: Recording) -> RuleResult:
        for fact in recording.facts("read_twice", rank=first_rank(recording)):
            if fact["equal"] is False:
                return self._found(recording, fact, 0.0)
        passes = _fingerprints(recording)
        judged, lowest = 0, 1.0
        for numbers in passes.values():
            ordered = [numbers[number] for number in sorted(numbers)]
            for before, now in itertools.pairwise(ordered):
                earlier, later = _comparable(before["batches"], now["batches"])
                of = min(len(earlier), len(later))
                if not of:
                    continue
                same = sum((Counter(earlier) & Counter(later)).values())
                judged, lowest = judged + 1, min(lowest, same / of)
                if same < self.share * of:
                    return self._found(recording, now, same / of)
        read = [fact for fact in recording.facts("read_twice") if fact["equal"] is True]
        if not judged and not read:
            return self.not_applicable("no sample was evaluated twice")
        return self.clean(passes_compared=judged, lowest_share_of_same_samples=lowest)

    def _found(self, recording: Recording, fact: dict[str, Any], same: float) -> RuleResult:
        loaders = {item["number"]: item for item in recording.facts("loader")}
        transform = (loaders.get(fact.get("loader")) or {}).get("transform")
        return self.issue(
            int(fact["step"] or 0),
            fact["mode"] or "EVAL",
            meaning="An evaluation image is another each time it is read: the metrics measure the augmentation too.",
            remedy="evaluate with transforms.Resize(256), transforms.CenterCrop(224) instead of random crops and flips",
            share_of_same_samples=same,
            transform=transform,
        )


@rule
@dataclass(frozen=True)
class EvaluatedInTrainMode(Rule):
    """Dropout or batch norm was in train mode while evaluating.

    Dropout with p = 0 changes nothing and does not count.
    """

    def judge(self, recording: Recording) -> RuleResult:
        facts = recording.facts("evaluation", rank=first_rank(recording))
        if not facts:
            return self.not_applicable("no evaluation was seen")
        known = {module.name: module for module in modules(recording)}
        for fact in facts:
            names = [name for name in fact["training_modules"] if _acts(known.get(name))]
            if names:
                return self.issue(
                    int(fact["step"] or 0),
                    fact["mode"] or "EVAL",
                    meaning=f"{len(names)} modules ({names[0]} first) were in train mode while evaluating: dropout "
                    "drops, batch norm normalises by the batch.",
                    remedy="model.eval() before evaluating, model.train() after it",
                    modules=names[:10],
                    series=plot(loss(recording), loss(recording, EVAL)),
                )
        return self.clean(evaluations=len(facts))


def _acts(module: Any) -> bool:
    """Whether a module does something else in train mode."""
    if module is None:
        return True
    settings = module.settings
    if "Dropout" in module.type or "p" in settings:
        return float(settings.get("p", 1)) > 0
    return True


def _change(size: Any, mean: Any) -> np.ndarray:
    """Return how far a statistic moved between saved steps, relative to its norm; [n - 1]."""
    if len(size) < 2:
        return np.zeros(0)
    # A mean that begins at zero would otherwise change beyond all measure.
    norm = np.maximum(np.maximum(np.abs(size.values[:-1]), np.abs(size.values[1:])), 1e-12)
    moved = np.abs(np.diff(size.values)) / norm
    if len(mean) == len(size):
        moved = np.maximum(moved, np.abs(np.diff(mean.values)) / norm)
    result: np.ndarray = moved
    return result


def _comparable(before: dict[int, list[str]], now: dict[int, list[str]]) -> tuple[list[str], list[str]]:
    """Return the samples of two passes; where batches were left out of the recording, of those that both have."""
    numbers = (set(before), set(now)) if set(before) == set(now) else (set(before) & set(now),) * 2
    first, second = (
        [sample for number in sorted(chosen) for sample in batches[number]]
        for chosen, batches in zip(numbers, (before, now), strict=True)
    )
    return first, second


def _fingerprints(recording: Recording) -> dict[Any, dict[int, dict[str, Any]]]:
    """Return, by data and pass, the samples' fingerprints.

    Loaders over the same samples are one: a script may make data set and loader anew for each pass.
    """
    kinds = {
        fact["number"]: (fact["source"], fact["length"], fact["batch_size"], fact["transform"])
        for fact in recording.facts("loader", rank=first_rank(recording))
        if fact.get("source")
    }
    passes: dict[Any, dict[int, dict[str, Any]]] = defaultdict(dict)
    order: dict[Any, int] = {}
    for fact in recording.facts("evaluation_batch", rank=first_rank(recording)):
        data = kinds.get(fact["loader"], fact["loader"])
        place = (data, fact["loader"], fact["pass"])
        number = order.setdefault(place, len(order))
        entry = passes[data].setdefault(
            number, {"batches": {}, "step": fact["step"], "mode": fact["mode"], "loader": fact["loader"]}
        )
        entry["batches"][fact["batch"]] = fact["samples"]
    return passes
