"""Our rules about the machine and its memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finepoint.profiler.nvml import throttle_names
from finepoint.profiler.prediction import neighbour_cores
from finepoint.profiler.recording import ProfilerRecording, total
from finepoint.profiler.rules.base import FEWEST_SAMPLES, OwnRule, SampleRule, own_rule
from finepoint.profiler.segments import Table
from finepoint.results import RuleResult

# Of all pairs of points, so many decide a slope well enough.
_SLOPE_POINTS = 150
_REMEDIES = {
    "main": "add up loss.item() or loss.detach() instead of loss, and keep no outputs in a list",
    "workers": "let the dataset keep nothing of the items that it has given out",
    "children": "let what runs in it keep nothing of what it is done with",
}


class _LoopRule(OwnRule):
    """A rule about samples that knows by itself how many it needs."""

    def datapoints(self, recording: ProfilerRecording) -> int:
        """Count the samples of the loop."""
        return len(recording.during_loop())


@own_rule
@dataclass(frozen=True)
class MemoryLeak(_LoopRule):
    """Fires where memory rises steadily, and says when it runs out: the training process's, its workers', a GPU's.

    Of fewer than `steps` it fires only where the memory grows by half: an allocator takes some dozens to settle. So it
    does of other processes, whose memory also grows by the pages of files that they come to. A process grows while it
    starts: a loader's worker counts from the first batch that it is known to have loaded, any other from `startup` on,
    and is to grow for `lasting`, which no import takes.
    """

    growth_bytes: float = 64 * 2**20
    growth: float = 0.05
    fast_growth: float = 0.5
    steadiness: float = 0.97
    seconds: float = 10.0
    steps: int = 100
    until: float = 0.75
    startup: float = 30.0
    lasting: float = 30.0

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Fit a slope (median of all pairs) to each memory after the first quarter of the loop."""
        samples = recording.during_loop()
        growth = self.growth if total(recording.loop, "steps") >= self.steps else self.fast_growth
        main = self._trend(samples["time"], samples["job_main_rss_bytes"], growth)
        if main is None:
            return self.not_applicable(
                f"too few data points: {len(samples)} samples of the loop's memory, of {FEWEST_SAMPLES}"
            )
        devices = {
            device: self._trend(samples["time"], samples[f"gpu/{device}/memory_bytes"], growth)
            for device in range(recording.gpus)
        }
        leaking = {device: trend for device, trend in devices.items() if trend is not None and trend.leaks}
        workers, children = self._others(recording, samples)
        if main.leaks or workers or children:
            slope = main.slope * main.leaks + sum(trend.slope for trend in (*workers, *children))
            left = _available(recording, samples) / slope
            if main.leaks:
                return self._leak("Memory", "main", slope, left, main)
            kind = "workers" if workers else "children"
            trends = workers or children
            return self._leak(f"The memory of {_number_of(kind, len(trends))}", kind, slope, left, trends[0])
        for device, trend in leaking.items():
            whole = float(recording.sampler["gpus"][device].get("memory_bytes") or trend.last)
            left = max(whole - trend.last, 0.0) / trend.slope
            return self._leak(f"The memory of GPU {device}", f"gpu/{device}", trend.slope, left, trend)
        return self.clean(bytes_per_second=main.slope, grown_bytes=main.grown, steadiness=main.steadiness)

    def _leak(self, whose: str, of: str, slope: float, left: float, trend: _Trend) -> RuleResult:
        return self.issue(
            meaning=f"{whose} grows by {slope * 60 / 2**20:,.0f} MiB a minute; "
            + (f"at that rate it runs out in {_duration(left)}." if left >= 1 else "all of it is taken."),
            remedy=_REMEDIES.get(of, _REMEDIES["main"]),
            share=0.0,
            speedup=None,
            urgent=True,
            of="workers" if of == "children" else of,
            bytes_per_second=slope,
            seconds_left=left,
            steadiness=trend.steadiness,
        )

    def _others(self, recording: ProfilerRecording, samples: Table) -> tuple[list[_Trend], list[_Trend]]:
        """Return what leaks in the loaders' workers, and in other processes of the job beside its first."""
        loading, rows = _loading_since(recording), recording.processes
        rows = rows.where(rows["worker"] > 0)
        workers: list[_Trend] = []
        children: list[_Trend] = []
        for pid in np.unique(rows["pid"]):
            row = rows.where(rows["pid"] == pid)
            if row["time"][-1] < samples["time"][-1] - 3 * recording.interval_ms / 1000:
                continue  # one that has ended has given back what it held
            loads = pid in loading
            begin = max(samples["time"][0], loading[pid] if loads else row["time"][0] + self.startup)
            row = row.where(row["time"] >= begin)
            seconds = self.seconds if loads else self.lasting
            trend = self._trend(row["time"], row["rss_bytes"], self.fast_growth, seconds)
            if trend is not None and trend.leaks:
                (workers if loads else children).append(trend)
        return workers, children

    def _trend(
        self, times: np.ndarray, memory: np.ndarray, growth: float, seconds: float | None = None
    ) -> _Trend | None:
        """Return how a memory changes; None where there is too little of it, fewer than so many seconds."""
        known = ~np.isnan(memory)
        times, memory = times[known], memory[known]
        highest = int(np.argmax(memory)) if len(memory) else 0
        # What leaked is given back at the end, which may take a while.
        last = highest if highest >= self.until * len(memory) else len(memory)
        first = len(memory) // 4
        times, memory = times[first : last + 1], memory[first : last + 1]
        if len(times) < FEWEST_SAMPLES or times[-1] - times[0] < (seconds or self.seconds):
            return None
        slope = median_slope(times, memory)
        grown = float(slope * (times[-1] - times[0]))
        steady = rank_correlation(times, memory)
        # An allocator's growth slows down; a leak's last half grows as its first.
        half = len(times) // 2
        late = median_slope(times[half:], memory[half:])
        little = grown < max(self.growth_bytes, growth * memory[0])
        leaks = not (little or steady < self.steadiness or late < slope / 2)
        return _Trend(slope, grown, steady, float(memory[-1]), leaks)


def _loading_since(recording: ProfilerRecording) -> dict[float, float]:
    """Return when each process that is known to be a loader's worker was first seen to load."""
    if not any(loader["workers"] for loader in recording.facts.get("loaders", ())):
        return {}  # what loads is a training process
    rows, trains = recording.loading, set(recording.steps["pid"].tolist())
    known = np.unique(rows["pid"][~np.isnan(rows["pid"])])
    return {pid: float(rows["time"][rows["pid"] == pid].min()) for pid in known.tolist() if pid not in trains}


def _number_of(kind: str, count: int) -> str:
    """Return so many processes in words.

    >>> _number_of("workers", 1), _number_of("children", 2)
    ('a worker of the loader', '2 child processes')
    """
    if kind == "workers":
        return f"{count} workers of the loader" if count > 1 else "a worker of the loader"
    return f"{count} child processes" if count > 1 else "a child process"


@dataclass(frozen=True)
class _Trend:
    """How a memory changes: bytes a second, bytes in all, rank correlation with time, and bytes at the end."""

    slope: float
    grown: float
    steadiness: float
    last: float
    leaks: bool


def _available(recording: ProfilerRecording, samples: Table) -> float:
    """Return the memory that is left at the end: of the machine, which others use too, or of the control group."""
    machine = float(recording.sampler.get("memory_total_bytes") or 0) - samples["memory_used_bytes"][-1]
    limit = recording.sampler.get("memory_limit_bytes")
    held = samples["job_pss_bytes"][-1]
    held = samples["job_rss_bytes"][-1] if np.isnan(held) else held
    return float(max(min(machine, limit - held if limit else machine), 0.0))


@own_rule
@dataclass(frozen=True)
class Throttled(SampleRule):
    """Fires where a control group, a host's other guests or heat keep cores or a GPU from their full speed."""

    share: float = 0.05
    frequency: float = 0.75

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Add up the time throttled, and compare clocks with their highest."""
        samples = recording.during_loop()
        seconds = samples["time"][-1] - samples["time"][0]
        cores = max(len(recording.system.named("core/")), 1)
        throttled = float(np.nansum(samples["throttled_seconds"][1:])) / (seconds * cores)
        stolen = float(np.nanmean(samples["cpu_steal"]))
        limit = recording.sampler.get("cpu_limit_cores")
        if throttled > self.share and limit:
            return self.issue(
                meaning=f"The control group lets the job use {limit:g} of {cores} cores, and held it back for "
                f"{100 * throttled:.0f} % of the time.",
                remedy=f"raise the limit (docker run --cpus={cores}), or compute with "
                f"torch.set_num_threads({max(int(limit), 1)})",
                share=throttled,
                speedup=1 / (1 - throttled) if throttled < 1 else None,
                throttled_share=throttled,
                cpu_limit_cores=limit,
            )
        if stolen > self.share:
            return self.issue(
                meaning=f"The host gave {100 * stolen:.0f} % of this virtual machine's processor time to others.",
                remedy="take a machine with dedicated cores",
                share=stolen,
                speedup=1 / (1 - stolen),
                stolen_share=stolen,
            )
        return self._clocks(recording, samples)

    def _clocks(self, recording: ProfilerRecording, samples: Table) -> RuleResult:
        held = {}
        for device in range(recording.gpus):
            bits = np.nan_to_num(samples[f"gpu/{device}/throttle"]).astype(int)
            share = float(np.mean([bool(throttle_names(int(value))) for value in bits]))
            if share > self.share:
                reasons = throttle_names(int(np.bitwise_or.reduce(bits)))
                held[f"gpu{device}"] = {"share": share, "reasons": reasons}
        if held:
            share = max(float(found["share"]) for found in held.values())  # type: ignore[arg-type]
            reasons = sorted({reason for found in held.values() for reason in found["reasons"]})  # type: ignore[attr-defined]
            return self.issue(
                meaning=f"A GPU's clock was held back for {100 * share:.0f} % of the time: {', '.join(reasons)}.",
                remedy="raise the power limit (nvidia-smi -pl), or mend the cooling",
                share=share,
                devices=held,
            )
        known = (samples["frequency_mhz"] / samples["frequency_max_mhz"])[~np.isnan(samples["frequency_max_mhz"])]
        clock = float(known.mean()) if len(known) else 1.0
        if clock < self.frequency and float(np.nanmean(samples["cpu"])) > 0.5:
            return self.issue(
                meaning=f"The processor ran at {100 * clock:.0f} % of its highest frequency under load.",
                remedy="connect the charger, choose the performance profile, or mend the cooling",
                share=1 - clock,
                frequency_share=clock,
            )
        return self.clean()


@own_rule
@dataclass(frozen=True)
class SwapInUse(SampleRule):
    """Fires where the machine swaps while the job runs."""

    bytes_per_second: float = 1e6
    share: float = 0.05

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Count the samples with traffic to swap."""
        samples = recording.during_loop()
        traffic = np.nan_to_num(samples["swap_in_bytes_per_second"]) + np.nan_to_num(
            samples["swap_out_bytes_per_second"]
        )
        share = float((traffic > self.bytes_per_second).mean())
        if share < self.share:
            return self.clean(share=share, swap_used_bytes=float(samples["swap_used_bytes"][-1]))
        return self.issue(
            meaning=f"The machine swapped in {100 * share:.0f} % of the samples: memory does not suffice.",
            remedy="halve batch_size or num_workers, or close what else holds memory",
            share=share,
            most_bytes_per_second=float(traffic.max()),
        )


@own_rule
@dataclass(frozen=True)
class BusyNeighbour(SampleRule):
    """Fires where other processes take cores that the job would have used."""

    cores: float = 0.3
    saturation: float = 0.9

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Compare the machine's busy cores with the job's."""
        samples = recording.during_loop()
        count = max(len(recording.system.named("core/")), 1)
        taken = neighbour_cores(samples, count)
        busy = float(np.nanmean(samples["cpu"]))
        if taken < self.cores or busy < self.saturation:
            return self.clean(neighbours_cores=taken, busy=busy)
        mine = float(np.nanmean(samples["job_cpu"]))
        share = taken / (mine + taken)
        return self.issue(
            meaning=f"Other processes keep {taken:.1f} of {count} cores busy, which the job would have used.",
            remedy="stop them (top shows which), or run the job when they have ended",
            share=share,
            # Threads that wait for an interrupted one make it worse than the share says: nothing is promised.
            neighbours_cores=taken,
            job_cores=mine,
        )


@own_rule
@dataclass(frozen=True)
class IdleInstance(_LoopRule):
    """Fires where the job uses next to nothing of the machine."""

    cpu: float = 0.15
    cores: float = 0.5
    gpu: float = 0.1
    samples: int = 20

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Look at the mean use of cores and GPUs; one thread that computes alone does not idle."""
        samples = recording.during_loop()
        if len(samples) < self.samples:
            return self.not_applicable(f"too few data points: {len(samples)} samples of the loop, of {self.samples}")
        used = float(np.nanmean(samples["job_cpu"]))
        cpu = used / recording.cores
        said = [samples[f"gpu/{device}/utilisation"] for device in range(recording.gpus)]
        gpus = [float(np.nanmean(values)) for values in said if not np.isnan(values).all()]
        machine = float(np.nanmean(samples["cpu"]))
        # A job whose neighbours keep the machine busy does not idle: it queues.
        if cpu > self.cpu or used > self.cores or machine > 0.5 or any(gpu > self.gpu for gpu in gpus):
            return self.clean(cpu=cpu, gpus=gpus, machine=machine)
        if len(gpus) < recording.gpus:
            return self.not_applicable("a GPU does not say how much it is used")
        return self.issue(
            meaning=f"The job uses {100 * cpu:.0f} % of the processor"
            + (f" and {100 * max(gpus):.0f} % of the GPU" if gpus else "")
            + ": it mostly waits.",
            remedy="see which phase it waits in; if nothing can be done there, take a smaller machine",
            share=1 - used,
            cpu=cpu,
            gpus=gpus,
        )


def median_slope(times: np.ndarray, values: np.ndarray) -> float:
    """Return the median slope over all pairs of points (Theil 1950, Sen 1968), thinned to some 150 points.

    >>> median_slope(np.array([0.0, 1, 2, 3, 4]), np.array([0.0, 2, 4, 6, 100]))
    2.0
    """
    every = max(len(times) // _SLOPE_POINTS, 1)
    times, values = times[::every], values[::every]
    one, other = np.triu_indices(len(times), 1)
    apart = times[other] - times[one]
    return float(np.median((values[other] - values[one])[apart > 0] / apart[apart > 0]))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation; 0 where one of the two does not change.

    >>> round(rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 4, 9])), 3)
    1.0
    """
    first, second = (np.unique(values, return_inverse=True)[1].astype(float) for values in (one, other))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
