"""Rules about labels: how often each comes, in which order, and whether they belong to the images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.activations import DeadRelu
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.gradients import GradientsNotZeroed, VanishingGradient
from finepoint.debugger.rules.heads import ActivationOnLogits
from finepoint.debugger.rules.initialization import PoorWeightInitialization
from finepoint.debugger.rules.inputs import InputNotNormalised
from finepoint.debugger.rules.learning_rate import LearningRateTooHigh, LearningRateTooLow, median_ratio
from finepoint.debugger.rules.losses import rising
from finepoint.debugger.rules.parameters_used import FrozenEverything, UnusedParameters
from finepoint.debugger.rules.reading import EVAL, epoch_means, epochs, first_rank, loss, plot
from finepoint.debugger.rules.result import RuleResult

Histogram = Counter[int]
# Before so many steps nothing can be said to have been learnt, or not.
_FEWEST_STEPS = 24
_LARGEST_RATIO = 3.0
# A model that is right less often has not yet learnt enough to tell classes apart.
_LOWEST_ACCURACY = 0.8


@rule
@dataclass(frozen=True)
class ClassImbalance(Rule):
    """Some classes have many times the images of others, and nothing makes up for it.

    Fires when, over a pass over the training data (or `samples` labels), the largest class has more than
    `threshold_imbalance` times the images of the smallest, the loss is not weighted, and not all classes are recognised
    well all the same; or when the imbalance is there and more than `threshold_misprediction` of a class is mispredicted
    in evaluation.

    Where the documented default misfires: with few labels seen, chance alone makes ratios of ten; so without a whole
    pass, bounds of the counts (2.6 standard deviations) are compared. Mispredictions of balanced classes are not due to
    imbalance and do not count here.

    Args:
        threshold_imbalance, threshold_misprediction, samples: SageMaker's defaults.
        argmax, labels_regex, predictions_regex: accepted for SageMaker's sake; labels and predictions are recorded by
            ourselves.
    """

    threshold_imbalance: float = 10.0
    threshold_misprediction: float = 0.7
    samples: int = 500
    argmax: bool = False
    labels_regex: str = ".*labels"
    predictions_regex: str = ".*predictions"

    def judge(self, recording: Recording) -> RuleResult:
        passes = _of_training(recording, "pass_labels")
        batches = _of_training(recording, "labels")
        if passes:
            counts, step = _histogram(passes[0]), int(passes[0]["step"] or 0)
            ratio = _ratio(counts, slack=0.0)
        elif first := _first_pass(recording, batches):
            counts, step = _total(first), int(first[-1]["step"])
            ratio = _ratio(counts, slack=0.0)
        else:
            counts, step = _total(batches), int(batches[-1]["step"]) if batches else 0
            if sum(counts.values()) < self.samples:
                return self.not_applicable(f"{sum(counts.values())} labels were seen; it takes {self.samples}")
            ratio = _ratio(counts, slack=2.6)
        if len(counts) < 2:
            return self.not_applicable(f"{len(counts)} classes were seen")
        if ratio <= self.threshold_imbalance:
            return self.clean(ratio=ratio, smallest=min(counts.values()), largest=max(counts.values()))
        weighted = any(fact.get("weighted") for fact in _facts(recording, "loss"))
        missed = _missed(recording)
        worst = max(missed, key=missed.__getitem__, default=None)
        if weighted and (worst is None or missed[worst] <= self.threshold_misprediction):
            return self.clean(ratio=ratio, weighted=True)
        rare = min(counts, key=counts.__getitem__)
        return self.issue(
            step,
            "TRAIN",
            meaning=f"The largest class has {ratio:.0f} times the images of the smallest (label {rare}, "
            f"{counts[rare]} images): the rare ones will hardly be learnt.",
            remedy="weight the loss (finepoint: --class-weights balanced; torch: CrossEntropyLoss(weight=...)), or "
            "draw with torch.utils.data.WeightedRandomSampler",
            ratio=ratio,
            histogram=dict(sorted(counts.items())[:200]),
            **({} if worst is None else {"worst_class": worst, "mispredicted": missed[worst]}),
        )


@rule
@dataclass(frozen=True)
class Confusion(Rule):
    """A class is recognised much worse than the others, or two are taken for each other.

    Of the last pass of evaluation. As documented, the diagonal is divided by the sum of the diagonal, which cannot
    reach 0.9 for any of two or more classes; so here a class's share of right answers is compared with `min_diag`,
    and a class's share of answers for one other with `max_off_diag`. That alone is true of some class of most models;
    so it must also be taken for the other at least twice as often as for itself, its share of right answers must be
    below that of the other classes together beyond chance (2.6 standard deviations), and that must be 0.8: a weak model
    has other troubles.

    Not judged unless asked for: some pairs of classes are simply hard.

    Args:
        category_no: classes; by default those that occurred.
        labels, predictions, labels_collection, predictions_collection: accepted for SageMaker's sake; labels and
            predictions are recorded by ourselves.
        min_diag, max_off_diag: SageMaker's defaults.
    """

    default: ClassVar[bool] = False
    category_no: int | None = None
    labels: str = "labels"
    predictions: str = "predictions"
    labels_collection: str = "labels"
    predictions_collection: str = "predictions"
    min_diag: float = 0.9
    max_off_diag: float = 0.1

    def judge(self, recording: Recording) -> RuleResult:
        facts = _facts(recording, "confusion")
        if not facts:
            return self.not_applicable("no pass of evaluation with labels and predictions was recorded")
        fact = facts[-1]
        matrix = _matrix(fact, self.category_no)
        totals = matrix.sum(1)
        if not totals.sum():
            return self.not_applicable("no label is among the categories")
        right = np.diag(matrix)
        overall = float(right.sum() / totals.sum())
        # Of the classes but one, so that one which is never recognised does not hide itself.
        rest = (right.sum() - right) / np.maximum(totals.sum() - totals, 1)
        if rest.max() < _LOWEST_ACCURACY:
            return self.not_applicable(f"accuracy is {overall:.2f}: no class is learnt yet")
        bad = []
        for label in np.flatnonzero(totals):
            share = right[label] / totals[label]
            others = np.where(np.arange(len(matrix)) == label, 0, matrix[label]) / totals[label]
            spread = np.sqrt(max(rest[label] * (1 - rest[label]), 1e-9) / totals[label])
            by_documentation = share < self.min_diag and others.max() > self.max_off_diag
            worse = rest[label] >= _LOWEST_ACCURACY and share < rest[label] - 2.6 * spread
            if by_documentation and worse and others.max() > 2 * share:
                bad.append({"label": int(label), "right": float(share), "taken_for": int(np.argmax(others))})
        if not bad:
            return self.clean(accuracy=overall)
        bad.sort(key=lambda item: float(item["right"]))
        return self.issue(
            int(fact["step"] or 0),
            "EVAL",
            meaning=f"Label {bad[0]['label']} is recognised in {bad[0]['right']:.0%} of its images (all together: "
            f"{overall:.0%}) and mostly taken for label {bad[0]['taken_for']}.",
            remedy="look at images of both: are some labelled wrongly, or is there too little of one?",
            classes=bad[:10],
            accuracy=overall,
        )


@rule
@dataclass(frozen=True)
class LabelsShuffledOrConstant(Rule):
    """Labels do not belong to the images, are all the same, or come sorted.

    Fires when

    - only one label occurs in `samples` samples or a pass;
    - batches hold less than half of the labels that chance would give, and their mean label goes up or down with the
      place in the pass: the loader does not shuffle, and the images are sorted by class;
    - after `passes` passes the loss is still what guessing by frequency gives (the entropy of the labels), in
      evaluation too, while the weights moved as they do in a sound training, and no other rule says what keeps the
      network from learning: the labels say nothing about the images. One pass is not enough: plain networks without
      normalisation may stay there for one or two before they begin to learn.

    Args:
        samples: labels to see before calling them constant.
        passes: over the training data before calling them meaningless.
        margin: share of the entropy within which the loss counts as guessing.
    """

    samples: int = 100
    passes: int = 2
    margin: float = 0.005

    def judge(self, recording: Recording) -> RuleResult:
        batches = _of_training(recording, "labels")
        if not batches:
            return self.not_applicable("no labels were seen")
        return (
            self._constant(recording, batches)
            or self._sorted(recording, batches)
            or self._meaningless(recording, batches)
            or self.clean(labels=len(_total(batches)))
        )

    def _constant(self, recording: Recording, batches: list[dict[str, Any]]) -> RuleResult | None:
        counts, step = _sum_until(batches, self.samples)
        passes = _of_training(recording, "pass_labels")
        if passes and (sum(counts.values()) < self.samples or int(passes[0]["step"]) < step):
            counts, step = _histogram(passes[0]), int(passes[0]["step"])
        if len(counts) != 1 or sum(counts.values()) < self.samples:
            return None
        (label,) = counts
        return self.issue(
            step,
            "TRAIN",
            meaning=f"All labels are {label}.",
            remedy="look at how labels are made from folders or files: `next(iter(loader))[1]`",
            label=label,
            samples=sum(counts.values()),
        )

    def _sorted(self, recording: Recording, batches: list[dict[str, Any]]) -> RuleResult | None:
        spans = epochs(recording)
        end = spans[0].last if spans else int(batches[-1]["step"])
        first = [fact for fact in batches if fact["step"] <= end]
        known = [_histogram(fact) for fact in _of_training(recording, "pass_labels")]
        total = known[0] if known else _total(batches)
        if len(first) < 4 or len(total) < 3:
            return None
        histograms = [_histogram(fact) for fact in first]
        shares = np.array(list(total.values())) / sum(total.values())
        expected = [float((1 - (1 - shares) ** sum(item.values())).sum()) for item in histograms]
        distinct = [len(item) for item in histograms]
        means = [sum(label * count for label, count in item.items()) / sum(item.values()) for item in histograms]
        order = float(np.corrcoef([fact["step"] for fact in first], means)[0, 1]) if np.std(means) > 0 else 0.0
        if np.mean(distinct) > 0.5 * np.mean(expected) or abs(order) < 0.9:
            return None
        return self.issue(
            int(first[-1]["step"]),
            "TRAIN",
            meaning=f"Batches hold {np.mean(distinct):.1f} labels where chance would give {np.mean(expected):.1f}, in "
            "order: the images come sorted by class.",
            remedy="DataLoader(..., shuffle=True)",
            labels_a_batch=float(np.mean(distinct)),
            expected=float(np.mean(expected)),
            order=order,
        )

    def _meaningless(self, recording: Recording, batches: list[dict[str, Any]]) -> RuleResult | None:
        means = epoch_means(recording)[1]
        evaluations, valid = epoch_means(recording, EVAL)
        weighted = any(fact.get("weighted") for fact in _facts(recording, "loss"))
        if min(len(means), len(valid)) < self.passes or weighted or len(loss(recording)) < _FEWEST_STEPS:
            return None
        counts = _total(batches)
        shares = np.array(list(counts.values())) / sum(counts.values())
        entropy = float(-(shares * np.log(shares)).sum())
        ratio = median_ratio(recording)
        moved = float(np.median(ratio.values)) if len(ratio) else 0.0
        within = abs(float(means[: self.passes].min()) - entropy) < 0.1 * entropy
        guessing = float(valid.min()) > (1 - self.margin) * entropy and float(valid[-1]) < 1.1 * entropy
        if _ratio(counts, slack=0.0) > _LARGEST_RATIO:
            return None  # evaluation may hold the classes in other shares, and then guessing costs more
        if not (within and guessing and 2e-4 < moved < 0.2) or self._explained(recording):
            return None
        span = evaluations[min(self.passes, len(evaluations)) - 1]
        return self.issue(
            span.last,
            "EVAL",
            meaning=f"After {len(means)} passes the loss is {valid[-1]:.3f}, what guessing by frequency gives "
            f"({entropy:.3f}), though the weights move: the labels say nothing about the images.",
            remedy="look at some images with their labels: are both in the same order, and shuffled together?",
            entropy=entropy,
            valid_losses=valid.tolist()[-10:],
            median_update=moved,
            series=[*plot(loss(recording)), *plot(loss(recording, EVAL))],
        )

    def _explained(self, recording: Recording) -> bool:
        """Whether something else keeps the network from learning."""
        others: tuple[type[Rule], ...] = (VanishingGradient, GradientsNotZeroed, DeadRelu, ActivationOnLogits)
        others += (PoorWeightInitialization, FrozenEverything, UnusedParameters, InputNotNormalised)
        others += (LearningRateTooHigh, LearningRateTooLow)
        return rising(recording) is not None or any(other().judge(recording).fired for other in others)


@rule
@dataclass(frozen=True)
class LogitsForWrongClassCount(Rule):
    """The model has more (or fewer) outputs than there are classes.

    Judged once a whole pass over the training data has been seen, with all labels of training and evaluation together.
    A label that no output stands for is an error at once.
    """

    def judge(self, recording: Recording) -> RuleResult:
        shapes = [fact for fact in _facts(recording, "loss") if fact["function"] in ("cross_entropy", "nll_loss")]
        labels = [fact for fact in _facts(recording, "labels") if fact.get("classes")]
        if not shapes or not labels:
            return self.not_applicable("no loss over classes was seen")
        classes = int(labels[0]["classes"])
        batches = labels + _facts(recording, "pass_labels")
        seen = {label for fact in batches for label in _histogram(fact) if label >= 0}
        beyond = sorted(label for label in seen if label >= classes)
        whole = _of_training(recording, "pass_labels")
        ended = [span.last for span in epochs(recording)]
        if not beyond and not whole and not ended:
            return self.not_applicable("no pass over the training data has ended")
        if not beyond and len(seen) == classes:
            return self.clean(outputs=classes, classes=len(seen))
        step = int(batches[0]["step"] or 0) if beyond else int((ended or [whole[0]["step"] or 0])[0])
        unused = sorted(set(range(classes)) - seen)
        return self.issue(
            step,
            "TRAIN",
            meaning=f"The model has {classes} outputs, and {len(seen)} labels occur"
            + (f", {beyond[0]} among them." if beyond else "."),
            remedy=f"give the last layer {max(seen) + 1 if beyond else len(seen)} outputs"
            + ("" if beyond else f"; no image has label {', '.join(map(str, unused[:5]))}"),
            outputs=classes,
            labels=len(seen),
            unused=unused[:20],
        )


def _facts(recording: Recording, kind: str) -> list[dict[str, Any]]:
    return recording.facts(kind, rank=first_rank(recording))


def _of_training(recording: Recording, kind: str) -> list[dict[str, Any]]:
    return [fact for fact in _facts(recording, kind) if fact["mode"] == "TRAIN"]


def _histogram(fact: Mapping[str, Any]) -> Histogram:
    return Counter({int(label): int(count) for label, count in fact["histogram"].items()})


def _total(batches: list[dict[str, Any]]) -> Histogram:
    total: Histogram = Counter()
    for fact in batches:
        total.update(_histogram(fact))
    return total


def _first_pass(recording: Recording, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the batches of the first pass; nothing where it has not ended or some were not recorded."""
    spans = epochs(recording)
    inside = [fact for fact in batches if spans and spans[0].first <= fact["step"] <= spans[0].last]
    return inside if spans and len(inside) == spans[0].last - spans[0].first + 1 else []


def _sum_until(batches: list[dict[str, Any]], samples: int) -> tuple[Histogram, int]:
    """Return the labels of the first batches that have `samples` together, and the step of the last of them."""
    total: Histogram = Counter()
    step = 0
    for fact in batches:
        total.update(_histogram(fact))
        step = int(fact["step"])
        if sum(total.values()) >= samples:
            break
    return total, step


def _ratio(counts: Histogram, slack: float) -> float:
    """Return the largest over the smallest count, after `slack` standard deviations in favour of balance."""
    low, high = min(counts.values(), default=1), max(counts.values(), default=1)
    return float(max(high - slack * high**0.5, 1) / (low + slack * low**0.5 + (slack > 0)))


def _matrix(fact: Mapping[str, Any], categories: int | None) -> np.ndarray:
    triples = [tuple(map(int, item)) for item in fact["counts"]]
    size = categories or 1 + max(itertools.chain.from_iterable((a, b) for a, b, _ in triples))
    matrix = np.zeros((size, size))
    for label, predicted, count in triples:
        if label < size and predicted < size:
            matrix[label, predicted] += count
    return matrix


def _missed(recording: Recording) -> dict[int, float]:
    """Return the share of each class that the last pass of evaluation mispredicted."""
    facts = _facts(recording, "confusion")
    if not facts:
        return {}
    matrix = _matrix(facts[-1], None)
    return {
        int(label): float(1 - matrix[label, label] / matrix[label].sum()) for label in np.flatnonzero(matrix.sum(1))
    }
