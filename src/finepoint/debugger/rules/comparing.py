"""A rule that compares two recordings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import EVAL, TRAIN, collections_of, plot, series
from finepoint.debugger.rules.result import RuleResult
from finepoint.errors import NotFoundError


@rule
@dataclass(frozen=True)
class SimilarAcrossRuns(Rule):
    """A tensor differs from that of another run at the same step.

    Compared with numpy.allclose at its default tolerances: whole tensors where both runs have them, else the
    reductions that both have, at the steps that both saved.

    Args:
        other_trial: the other recording's folder; needed.
        collection_names: collections to compare; by default all that both have.
        tensor_regex: names to compare.
    """

    default: ClassVar[bool] = False
    other_trial: str = ""
    collection_names: tuple[str, ...] = ()
    tensor_regex: tuple[str, ...] = ()

    def judge(self, recording: Recording) -> RuleResult:
        if not self.other_trial:
            return self.not_applicable("say with which run to compare: other_trial=runs/first/training")
        try:
            other = Recording.open(self.other_trial)
        except NotFoundError as error:
            return self.not_applicable(str(error))
        chosen = collections_of(recording, self.collection_names, self.tensor_regex)
        if not (self.collection_names or self.tensor_regex):
            chosen = recording.names(r"^(?!.*_seconds$)")
        names = sorted(set(chosen) & set(other.names()))
        found, compared = [], 0
        for name in names:
            for mode in (TRAIN, EVAL):
                for reduction in set(recording.reductions(name)) & set(other.reductions(name)):
                    ours, theirs = series(recording, name, reduction, mode), series(other, name, reduction, mode)
                    _, a, b = np.intersect1d(ours.steps, theirs.steps, return_indices=True)
                    compared += len(a)
                    differ = np.flatnonzero(~np.isclose(ours.values[a], theirs.values[b], equal_nan=True))
                    if differ.size:
                        found.append((int(ours.steps[a[differ[0]]]), mode.name, name, ours, theirs))
                there = {(place.step, place.mode) for place in other.tensors(name, mode)}
                for place in recording.tensors(name, mode):
                    if (place.step, mode) in there:
                        compared += 1
                        whole = recording.tensor(name, place.step, mode), other.tensor(name, place.step, mode)
                        if whole[0].shape != whole[1].shape or not np.allclose(*whole, equal_nan=True):
                            line = series(recording, name, None, mode)
                            found.append((place.step, mode.name, name, line, series(other, name, None, mode)))
                            break
        if not compared:
            return self.not_applicable("the two recordings have no tensor at the same step")
        if not found:
            return self.clean(values_compared=compared)
        step, mode_name, name, ours, theirs = min(found, key=lambda item: item[:3])
        return self.issue(
            step,
            mode_name,
            meaning=f"{len({item[2] for item in found})} of {len(names)} tensors differ from the other run, "
            f"{name} first.",
            remedy="were seed, data, versions and settings the same? `torch.manual_seed`, "
            "`torch.use_deterministic_algorithms(True)`",
            tensors=sorted({item[2] for item in found})[:10],
            series=[*plot(ours), *plot(theirs, name=f"{name} of the other run")],
        )
