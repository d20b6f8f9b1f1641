"""Our rules about what a training loop does beside training."""

from __future__ import annotations

from dataclasses import dataclass

from finepoint.profiler.phases import Mode
from finepoint.profiler.prediction import loop_speedup
from finepoint.profiler.recording import ProfilerRecording, total
from finepoint.profiler.rules.base import StepRule, own_rule
from finepoint.results import RuleResult


@own_rule
@dataclass(frozen=True)
class CheckpointTooOften(StepRule):
    """Fires where writing checkpoints takes a noticeable share of the time."""

    share: float = 0.05
    target: float = 0.01

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Take the time of saving."""
        share, saves = recording.share("checkpoint"), total(recording.loop, "saves")
        # Two or three at the end of a short job are not "often".
        if share < self.share or saves < 4:
            return self.clean(checkpoint=share, saves=int(saves))
        steps = total(recording.loop, "steps")
        every = max(round(steps / saves * share / self.target), 2)
        return self.issue(
            meaning=f"{int(saves)} checkpoints take {100 * share:.0f} % of the time.",
            remedy=f"save every {every} steps instead of every {steps / saves:.0f}",
            share=share,
            speedup=loop_speedup(recording, recording.loop_seconds * share * (1 - steps / saves / every)),
            change={"save_every": every},
            saves=int(saves),
            steps=int(steps),
        )


@own_rule
@dataclass(frozen=True)
class HookTooHeavy(StepRule):
    """Fires where recording (the debugger's hook) takes more than it may."""

    share: float = 0.03

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Take the time of recording; what the profiler itself notes between two steps is none of it."""
        share = total(recording.loop, "recorded") / max(recording.loop_seconds, 1e-9)
        if share < self.share:
            return self.clean(hook=share)
        return self.issue(
            meaning=f"Recording tensors takes {100 * share:.0f} % of the time.",
            remedy="raise the hook's save_interval, or save reductions instead of whole tensors",
            share=share,
            speedup=1 / (1 - share),
        )


@own_rule
@dataclass(frozen=True)
class EvaluationShare(StepRule):
    """Fires where evaluation takes more of the time than a third."""

    share: float = 1 / 3

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Take the time of evaluation batches."""
        share = recording.phases()["evaluation"]
        if share < self.share:
            return self.clean(evaluation=share)
        rows = recording.loop
        batches = int(total(rows.where(rows["mode"] == Mode.EVALUATION), "batches"))
        return self.issue(
            meaning=f"Evaluation takes {100 * share:.0f} % of the time.",
            remedy="evaluate half as often, or on a fixed part of the validation images",
            share=share,
            speedup=loop_speedup(recording, recording.loop_seconds * share / 2, computes_less=True),
            batches=batches,
        )
