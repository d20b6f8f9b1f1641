"""What a change would give, from what was recorded: times of a step, and who waits for whom.

A step waits for data and then computes. Loader workers do the first beside the second, so that a step then lasts as
long as the slower of two: the loading divided among the workers, and the computing with what workers hold it up. They
hold it up where they find no free core: threads that compute together wait for the slowest of them, so that one worker
that takes a core for a second holds up all for that second, and two seldom do so for the same one. Nothing that the
host does better makes a loop shorter than what its GPU computes, by the GPU's own clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from finepoint.profiler.phases import Mode
from finepoint.profiler.recording import ProfilerRecording, device_seconds, total
from finepoint.profiler.segments import Table

# Starting a worker (a fork, and the queues) takes about so long, once an epoch unless workers are kept.
_WORKER_START_SECONDS = 0.03
# Threads that compute together take more than so many times the main thread's processor time.
_TOGETHER = 1.3


@dataclass(frozen=True)
class Costs:
    """Seconds of some rows.

    Args:
        seconds: in all.
        wait: for data, and `wait_cpu` the processor time in it.
        compute: the rest, and `compute_cpu`, over all threads (those that wait for each other at work included).
        rows: how many steps or batches.
        passes: iterations over the loader; 1 where there is none.
        device: that the GPU computed; 0 without one.
    """

    seconds: float
    wait: float
    wait_cpu: float
    compute: float
    compute_cpu: float
    rows: float
    passes: float
    device: float = 0.0

    def with_workers(self, workers: int, cores: float, *, persistent: bool = False) -> float:
        """Return the seconds that the rows would take with so many loader workers on so many cores.

        >>> costs = Costs(seconds=10, wait=6, wait_cpu=6, compute=4, compute_cpu=4, rows=10, passes=1)
        >>> round(costs.with_workers(2, cores=4), 2)
        4.06
        """
        free = max(cores * self.compute - self.compute_cpu, 0.0)
        # A core that a worker shares has half its time for the computing, which goes on while all of its threads run.
        shared = min(workers, cores)
        held_up = 2 * max(self.wait_cpu - free, 0.0) / shared * (1 - math.exp2(-shared))
        start = _WORKER_START_SECONDS * workers * (1 if persistent else self.passes)
        return max(self.compute + held_up, self.wait / workers, self.device) + start


def costs_of(recording: ProfilerRecording, mode: Mode) -> Costs:
    """Return what the rows of a mode cost."""
    rows = recording.loop
    rows = rows.where(rows["mode"] == mode)
    seconds, wait, wait_cpu = total(rows, "seconds"), total(rows, "phase/data_wait"), total(rows, "data_wait_cpu")
    loader = recording.loader(mode)
    batches = float(loader["batches"] or 0) if loader else 0.0
    return Costs(
        seconds=seconds,
        wait=wait,
        wait_cpu=min(wait_cpu, wait),
        compute=seconds - wait,
        compute_cpu=max(total(rows, "cpu") - wait_cpu, 0.0),
        rows=float(len(rows)),
        passes=max(total(rows, "batches") / batches, 1.0) if batches else 1.0,
        device=min(device_seconds(rows), seconds),
    )


def available_cores(recording: ProfilerRecording) -> float:
    """Return how many cores the job has for itself: those it may use, less what others took of them meanwhile."""
    samples = recording.during_loop()
    taken = neighbour_cores(samples, len(recording.system.named("core/")))
    return max(recording.cores - taken, 1.0)


def neighbour_cores(samples: Table, cores: int) -> float:
    """Return how many cores other processes kept busy, the sampler left out."""
    if len(samples) < 2:
        return 0.0
    seconds = samples["time"][-1] - samples["time"][0]
    own = (samples["sampler_cpu_seconds"][-1] - samples["sampler_cpu_seconds"][0]) / seconds if seconds else 0.0
    others = np.nanmean(samples["cpu"] * cores - samples["job_cpu"]) - own
    return float(max(others, 0.0))


def loop_speedup(recording: ProfilerRecording, saved_seconds: float, *, computes_less: bool = False) -> float:
    """Return how many times faster the loop is when so many of its seconds are saved.

    Args:
        recording: of the job.
        saved_seconds: of the host's time.
        computes_less: whether the GPU is spared work too; else the loop lasts as long as it computes at least.
    """
    whole = recording.loop_seconds
    least = 0.0 if computes_less else min(sum(recording.device_seconds().values()), whole)
    return whole / max(whole - saved_seconds, least, 1e-9) if whole else 1.0


def own_seconds(recording: ProfilerRecording) -> float:
    """Return the seconds of training steps in the script's own code that would be gained without it.

    What it waits in `.item()` and the like for the GPU is the GPU's, and what it does while the GPU computes costs
    nothing.
    """
    training = recording.training
    own = total(training, "phase/other") - total(training, "sync/other")
    return max(min(own, total(training, "seconds") - device_seconds(training)), 0.0)


def sync_cost(recording: ProfilerRecording) -> float:
    """Return the seconds of training steps that are lost because the host waits for the GPU in them.

    Without the waits, the GPU is given its next work while it computes: a step then lasts as long as the slower of the
    two. So what is lost is what the GPU stood still for, not the whole wait.
    """
    training = recording.training
    idle = total(training, "seconds") - device_seconds(training)
    waited = sum(total(training, name) for name in training.named("sync/"))
    return max(min(waited, idle), 0.0)


def first_waits(recording: ProfilerRecording) -> np.ndarray:
    """Return the seconds waited for the first batch of each pass over the training loader; empty without one."""
    rows, loader = recording.loop, recording.loader()
    if loader is None or not loader["batches"]:
        return np.zeros(0)
    rows = rows.where(rows["loader"] == loader["number"])
    batches = np.nan_to_num(rows["batches"])
    before = np.concatenate([[0.0], np.cumsum(batches)[:-1]]) if len(batches) else batches
    # A pass begins in a row where the number of passes that are begun rises.
    begins = (batches > 0) & (np.ceil((before + batches) / loader["batches"]) > np.ceil(before / loader["batches"]))
    firsts: np.ndarray = np.nan_to_num(rows["phase/data_wait"])[begins]
    return firsts


def computing_beside(recording: ProfilerRecording, loading_cores: float) -> float:
    """Return the seconds that the loop's computing would take if loader workers kept so many cores busy meanwhile.

    Threads that compute together and find too few cores hold each other up. That they did shows in a main thread that
    got less processor time than the computing lasted, or in others beside it.
    """
    rows = recording.loop
    computing = total(rows, "seconds") - total(rows, "phase/data_wait")
    cpu, main = total(rows, "cpu") - total(rows, "data_wait_cpu"), total(rows, "main_cpu")
    if not 0 < _TOGETHER * main < cpu:
        return computing
    threads = min(float(recording.facts.get("threads") or 1), recording.cores)
    return min(cpu / max(min(threads, recording.cores - loading_cores), 1.0), computing)


def best_workers(recording: ProfilerRecording) -> tuple[int, float]:
    """Return the fewest workers that are within a twentieth of the best, and the seconds of the loop they save."""
    cores = available_cores(recording)
    costs = [costs_of(recording, mode) for mode in (Mode.TRAIN, Mode.EVALUATION)]
    loaders = [recording.loader(mode) for mode in (Mode.TRAIN, Mode.EVALUATION)]
    saved = {}
    for workers in range(1, max(int(recording.cores), 1) + 1):
        saved[workers] = sum(
            max(cost.seconds - cost.with_workers(workers, cores), 0.0)
            for cost, loader in zip(costs, loaders, strict=True)
            if loader is not None and loader["workers"] == 0
        )
    best = max(saved.values())
    fewest = next(workers for workers, value in saved.items() if value >= 0.95 * best)
    return fewest, saved[fewest]
