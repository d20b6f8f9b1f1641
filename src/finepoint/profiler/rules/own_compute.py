"""Our rules about computing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finepoint.profiler.phases import Mode
from finepoint.profiler.prediction import loop_speedup, neighbour_cores, own_seconds, sync_cost
from finepoint.profiler.recording import ProfilerRecording, total
from finepoint.profiler.rules.base import OwnRule, StepRule, own_rule
from finepoint.results import RuleResult

_NO_NETWORK = "no network was looked at (the job was shorter than seven steps)"


@own_rule
@dataclass(frozen=True)
class RecomputedFeatures(OwnRule):
    """Fires where a frozen backbone computes the same images' features again in every pass."""

    share: float = 0.2

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Take the time of frozen layers, and of loading for them, in all passes but the first."""
        network, loader = recording.network(), recording.loader()
        if network is None:
            return self.not_applicable(recording.why_no_loader() if recording.parts() else _NO_NETWORK)
        loop = recording.loop
        training = loop.where(loop["mode"] == Mode.TRAIN)
        frozen = recording.frozen_seconds()
        share = frozen / max(recording.loop_seconds, 1e-9)
        if share < self.share:
            return self.clean(frozen_share_of_time=share)
        if loader is None or not loader["batches"]:
            return self.not_applicable("the frozen layers were fed by no loader whose length is known")
        passes = total(training, "batches") / loader["batches"]
        if passes < 1.5:
            return self.not_applicable(
                f"only {passes:.1f} passes over the data were seen; features pay from the second"
            )
        again = 1 - 1 / passes
        evaluating = loop.where(loop["mode"] == Mode.EVALUATION)
        loaded = total(training, "phase/data_wait") + total(evaluating, "phase/data_wait")
        computed = frozen + float(network["frozen_share"]) * total(evaluating, "phase/forward")
        return self.issue(
            meaning=f"Frozen layers take {100 * share:.0f} % of the time to compute the same features in each of "
            f"{passes:.0f} passes.",
            remedy="compute the features once and train the head on them (finepoint train PATH does); this needs the "
            "same crop of an image in every pass",
            share=(loaded + computed) / max(recording.loop_seconds, 1e-9),
            speedup=loop_speedup(recording, (loaded + computed) * again, computes_less=True),
            change={"cached_features": True},
            passes=passes,
            frozen_share_of_time=share,
        )


@own_rule
@dataclass(frozen=True)
class ChannelsLast(OwnRule):
    """Fires where convolutions run in NCHW and their like were measured to be faster in channels_last here."""

    share: float = 0.3
    speedup: float = 1.1

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Take what the layers' time, measured by themselves, shrinks by."""
        network = recording.network()
        if network is None:
            return self.not_applicable(_NO_NETWORK)
        if not network["convolutions"] or network["channels_last"]:
            return self.clean(convolutions=network["convolutions"], channels_last=network["channels_last"])
        return _faster(
            self,
            recording,
            "channels_last",
            what="The convolutions run with channels first",
            remedy="call model.to(memory_format=torch.channels_last), and images.to(memory_format=torch.channels_last)",
            change={"memory_format": "channels_last"},
        )


@own_rule
@dataclass(frozen=True)
class Precision(OwnRule):
    """Fires where a network runs in float32 and its heaviest layers were measured to be faster in bfloat16 here."""

    share: float = 0.3
    speedup: float = 1.1

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Take what the layers' time, measured by themselves, shrinks by."""
        network = recording.network()
        if network is None:
            return self.not_applicable(_NO_NETWORK)
        if network["dtype"] != "float32" or network["autocast"]:
            return self.clean(dtype=network["dtype"], autocast=network["autocast"])
        return _faster(
            self,
            recording,
            "bf16",
            what="The network computes in float32",
            remedy=f'wrap the forward and the loss in torch.autocast("{network["device"]}", dtype=torch.bfloat16)',
            change={"precision": "bf16"},
        )


@own_rule
@dataclass(frozen=True)
class ThreadOversubscription(OwnRule):
    """Fires where torch computes with many more threads than the job has cores, in the main process or in workers."""

    per_core: float = 1.5

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Compare threads with cores; loader workers have one thread each unless the script gives them more."""
        threads = recording.facts.get("threads")
        if threads is None:
            return self.not_applicable("no step was seen")
        if threads <= self.per_core * recording.cores:
            return self._workers(recording, int(threads))
        share = sum(recording.share(name) for name in ("forward", "backward", "optimizer"))
        return self.issue(
            meaning=f"torch computes with {threads} threads on {recording.cores:g} cores, which wait for each other.",
            remedy=f"call torch.set_num_threads({max(int(recording.cores), 1)}), or set OMP_NUM_THREADS",
            share=share,
            change={"threads": max(int(recording.cores), 1)},
            threads=threads,
            cores=recording.cores,
        )

    def _workers(self, recording: ProfilerRecording, threads: int) -> RuleResult:
        loader, fetches = recording.loader(), total(recording.loading, "fetches")
        workers = int(loader["workers"]) if loader else 0
        each = total(recording.loading, "threads") / fetches if fetches else 1.0
        if not workers or each <= 1 or workers * each <= self.per_core * recording.cores:
            return self.clean(threads=threads, workers=workers, worker_threads=each, cores=recording.cores)
        return self.issue(
            meaning=f"{workers} loader workers compute with {each:.0f} threads each on {recording.cores:g} cores, "
            "which wait for each other.",
            remedy="call torch.set_num_threads(1) in the DataLoader's worker_init_fn",
            share=recording.phases().get("data_wait", 0.0),
            threads=threads,
            workers=workers,
            worker_threads=each,
            cores=recording.cores,
        )


@own_rule
@dataclass(frozen=True)
class FrequentSync(StepRule):
    """Fires where the host waits for the GPU in each step (`.item()`, `.cpu()`, `if`), and lets it run dry so."""

    per_step: float = 1.0
    share: float = 0.05

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Count the waits in each step, and take what the GPU stands still for."""
        if not recording.facts.get("cuda"):
            return self.not_applicable("without a GPU, .item() waits for nothing")
        training = recording.training
        steps = total(training, "steps")
        syncs = total(training, "syncs") / steps
        lost = sync_cost(recording)
        share = lost / max(recording.loop_seconds, 1e-9)
        if syncs < self.per_step or share < self.share:
            return self.clean(syncs_per_step=syncs, lost_share=share)
        return self.issue(
            meaning=f"Each step reads {syncs:.1f} values back from the GPU, and so lets it run dry.",
            remedy="add up loss.detach() on the GPU and read it once in 50 steps",
            share=share,
            speedup=loop_speedup(recording, lost),
            syncs_per_step=syncs,
        )


@own_rule
@dataclass(frozen=True)
class SlowPython(StepRule):
    """Fires where much of a training step is neither data, network, nor optimizer, but the script's own code."""

    share: float = 0.2

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Take the time of training rows that belongs to no phase, less what it only waits for the GPU."""
        training = recording.training
        own = own_seconds(recording)
        share = own / max(recording.loop_seconds, 1e-9)
        if share < self.share:
            return self.clean(own=share, other=recording.share("other"))
        per_step = own / total(training, "steps")
        return self.issue(
            meaning=f"{100 * share:.0f} % of the time, {per_step:.3g} s a step, goes into the script's own code "
            "between the network's calls: a loss, metrics or logging written in Python.",
            remedy="write it with tensor operations, or do it once an epoch; `finepoint profile run "
            "--profile-steps 10` shows which lines",
            share=share,
            speedup=1 / (1 - share) if share < 1 else None,
            seconds_per_step=per_step,
        )


@own_rule
@dataclass(frozen=True)
class TinyBatch(StepRule):
    """Fires where so few images go into a step that what each step costs by itself weighs more than they do.

    What a step costs by itself is its time less the fetching of its items and less what its images cost the network's
    heaviest layers as part of a larger batch, timed on this machine when the job is over; the rest of forward and
    backward is taken to cost each image the same at any batch. Where they were not timed, it
    is what the machine needs for the network's multiplications (backward is twice a forward), and where not even that
    is known, the time of the optimizer and of the code between. Waiting for a core that others have looks the same:
    while they keep more than `others` cores busy, only a share of `certain` is believed.
    """

    batch: int = 8
    share: float = 0.2
    target: int = 64
    others: float = 0.3
    certain: float = 0.9

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Take the time of a step that is the same for any batch."""
        loader = recording.loader()
        size = loader.get("batch_size") if loader else None
        if not size:
            return self.not_applicable("the DataLoader has no batch size" if loader else recording.why_no_loader())
        training = recording.training
        steps = total(training, "steps")
        step, wait = total(training, "seconds") / steps, total(training, "phase/data_wait") / steps
        images, layers = self._network(recording, step - wait, steps)
        loading = self._loader(recording, wait, total(training, "batches") / steps)
        fixed = step - wait - images + loading
        share = fixed / step * total(training, "seconds") / max(recording.loop_seconds, 1e-9)
        if size > self.batch or share < self.share:
            return self.clean(batch_size=size, fixed_share=share)
        others = neighbour_cores(recording.during_loop(), len(recording.system.named("core/")))
        if others > self.others and share < self.certain:
            return self.not_applicable(
                f"others kept {others:.1f} cores busy, so that what a step costs by itself cannot be told"
            )
        # In a larger batch, what the small one cost the layers by itself is gone; the rest comes once a step as before.
        once = step - wait - layers + loading
        each = (step - fixed) / size + once / self.target
        saved = total(training, "seconds") * (1 - each * size / step)
        return self.issue(
            meaning=f"With {size} images a step, {100 * share:.0f} % of the time is what each step costs by itself.",
            remedy=f"raise batch_size to {self.target}, and the learning rate with it",
            share=share,
            speedup=loop_speedup(recording, saved, computes_less=True),
            change={"batch_size": self.target},
            batch_size=size,
            seconds_per_step=step,
        )

    def _loader(self, recording: ProfilerRecording, wait: float, batches: float) -> float:
        """Return the seconds of a step's wait for so many batches in which no item was fetched, without workers."""
        fetches = total(recording.loading, "fetches")
        loader = recording.loader()
        if not fetches or not loader or loader["workers"]:
            return 0.0
        return max(wait - batches * total(recording.loading, "seconds") / fetches, 0.0)

    def _network(self, recording: ProfilerRecording, computing: float, steps: float) -> tuple[float, float]:
        """Return the seconds a step that its images cost in a larger batch, and that the layers take now."""
        network, speeds = recording.network(), recording.speeds
        if network is None or not network.get("flops") or not speeds.get("gflops"):
            named = sum(total(recording.training, f"phase/{name}") for name in ("optimizer", "other"))
            images = max(computing - named / steps, 0.0)
            return images, images
        if "larger_seconds" not in speeds:
            images = min(3 * float(network["flops"]) / (speeds["gflops"] * 1e9), computing)
            return images, images
        # Not the number of forwards: a loss that is a module has one too.
        calls = float(network.get("calls_per_step") or 1.0)
        layers = min(calls * speeds["seconds"], computing)
        # Activations and the like were not timed; at any batch they cost what they cost an image now.
        passes = sum(total(recording.training, f"phase/{name}") for name in ("forward", "backward")) / steps
        rest = max(passes - layers, 0.0)
        return min(calls * speeds["larger_seconds"], layers) + rest, layers + rest


def _faster(
    rule: ChannelsLast | Precision,
    recording: ProfilerRecording,
    name: str,
    *,
    what: str,
    remedy: str,
    change: dict[str, str],
) -> RuleResult:
    ratio = recording.speeds.get(name)
    if ratio is None:
        return rule.not_applicable(f"how fast this machine computes the network in {name} was not measured")
    computing = recording.loop_seconds * sum(recording.share(phase) for phase in ("forward", "backward"))
    # The rest of forward and backward is overhead and small operations, which no format makes faster.
    calls = total(recording.loop, "forwards")
    layers = min(calls * recording.speeds.get("seconds", math.inf), computing)
    share = layers / max(recording.loop_seconds, 1e-9)
    speedup = loop_speedup(recording, layers * (1 - 1 / ratio), computes_less=True)
    if share < rule.share or speedup < rule.speedup:
        return rule.clean(measured_ratio=ratio, share=share)
    return rule.issue(
        meaning=f"{what}; its heaviest layers were measured to be {ratio:.1f} times as fast here in {name}.",
        remedy=remedy,
        share=share,
        speedup=speedup,
        change=dict(change),
        measured_ratio=ratio,
    )
