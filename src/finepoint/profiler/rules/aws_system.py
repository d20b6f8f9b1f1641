"""The AWS-documented rules about the machine; defaults are those of smdebug-rulesconfig 1.0.1.

Utilisations are in percent here, as in theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from finepoint.profiler.recording import ProfilerRecording
from finepoint.profiler.rules.base import AwsRule, aws_rule
from finepoint.results import RuleResult

# The name that SageMaker gives to the first machine of a job.
NODE = "algo-1"
_NO_GPU = "no GPU was seen"


@aws_rule
@dataclass(frozen=True)
class BatchSize(AwsRule):
    """Fires where CPU, GPU and GPU memory are all used little: for a larger batch, or a smaller machine."""

    cpu_threshold_p95: float = 70
    gpu_threshold_p95: float = 70
    gpu_memory_threshold_p95: float = 70
    patience: int = 1000
    window: int = 500
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Compare 95th percentiles over the window."""
        gpus, why = _speaking(recording, "utilisation", "memory")
        if why:
            return self.absent(why)
        cpu = 100 * recording.system["cpu"]
        if len(cpu) <= max(self.patience, self.window):
            return self.too_few(len(cpu), max(self.patience, self.window))
        details: dict[str, Any] = {}
        violations = 0
        for device in gpus:
            busy, memory = _gpu(recording, device, "utilisation"), _gpu(recording, device, "memory")
            low = _p95(cpu, self.window) < self.cpu_threshold_p95 and _p95(busy, self.window) < self.gpu_threshold_p95
            if low and _p95(memory, self.window) < self.gpu_memory_threshold_p95:
                violations += 1
                node = details.setdefault(NODE, {"cpu": box_plot(cpu)})
                node[f"gpu{device}"], node[f"gpu{device}_memory"] = box_plot(busy), box_plot(memory)
        return self.judged(
            violations=violations,
            datapoints=len(cpu),
            details=details,
            meaning="CPU, GPU and GPU memory are all used little.",
            remedy="double batch_size until the GPU is busy, or take a smaller machine",
        )


@aws_rule
@dataclass(frozen=True)
class CPUBottleneck(AwsRule):
    """Fires where some core is busy while a GPU is not, for more than a share of the time."""

    threshold: float = 50
    cpu_threshold: float = 90
    gpu_threshold: float = 10
    patience: int = 1000
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Count samples with a busy core and an idle GPU."""
        cores = recording.system.named("core/")
        busy = sum((100 * recording.system[name] > self.cpu_threshold) for name in cores)
        return _bottleneck(self, recording, np.asarray(busy), "CPUs", self.patience, self.threshold, self.gpu_threshold)


@aws_rule
@dataclass(frozen=True)
class IOBottleneck(AwsRule):
    """Fires where cores wait for disks while a GPU is idle, for more than a share of the time."""

    threshold: float = 50
    io_threshold: float = 50
    gpu_threshold: float = 10
    patience: int = 1000
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Count samples with high I/O wait and an idle GPU."""
        waiting = (100 * recording.system["cpu_iowait"] > self.io_threshold).astype(int)
        return _bottleneck(self, recording, waiting, "IOs", self.patience, self.threshold, self.gpu_threshold)


@aws_rule
@dataclass(frozen=True)
class GPUMemoryIncrease(AwsRule):
    """Fires where the moving average of a GPU's memory rises by more than some percentage points in one step."""

    increase: float = 5
    patience: int = 1000
    window: int = 10
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Compare each moving average with the one before."""
        gpus, why = _speaking(recording, "memory")
        if why:
            return self.absent(why)
        points = len(recording.system)
        if points <= max(self.patience, self.window + 1):
            return self.too_few(points, max(self.patience, self.window + 1))
        details: dict[str, Any] = {}
        violations = 0
        for device in gpus:
            values = _gpu(recording, device, "memory")
            means = np.convolve(values, np.full(self.window, 1 / self.window), "valid")
            rises = np.diff(means)[max(self.patience - self.window, 0) :]
            count = int((rises > self.increase).sum())
            if count:
                violations += count
                details.setdefault(NODE, {})[f"gpu{device}"] = {
                    "increase": float(rises[rises > self.increase][-1]),
                    "gpu_max": float(np.nanmax(values)),
                    "p05": float(np.nanquantile(values, 0.05)),
                    **box_plot(values),
                }
        return self.judged(
            violations=violations,
            datapoints=points,
            details=details,
            meaning="GPU memory rises in large steps.",
            remedy="keep no tensors with their graph over steps: sum loss.item() or loss.detach(), not loss",
        )


@aws_rule
@dataclass(frozen=True)
class LowGPUUtilization(AwsRule):
    """Fires where a GPU is used little, or now much and now not at all."""

    threshold_p95: float = 70
    threshold_p5: float = 10
    window: int = 500
    patience: int = 1000
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Compare the 95th and 5th percentiles over the window."""
        gpus, why = _speaking(recording, "utilisation")
        if why:
            return self.absent(why)
        points = len(recording.system)
        if points <= max(self.patience, self.window):
            return self.too_few(points, max(self.patience, self.window))
        details: dict[str, Any] = {}
        for device in gpus:
            values = _gpu(recording, device, "utilisation")[-self.window :]
            high, low = float(np.nanquantile(values, 0.95)), float(np.nanquantile(values, 0.05))
            if high < self.threshold_p95 or low < self.threshold_p5:
                details.setdefault(NODE, {})[f"gpu{device}"] = {"gpu_95": high, "gpu_5": low}
        return self.judged(
            violations=len(details.get(NODE, {})),
            datapoints=points,
            details=details,
            meaning="A GPU is used little, or in bursts.",
            remedy="see which phase takes the time in between: data_wait asks for workers, forward for a larger batch",
        )


@aws_rule
@dataclass(frozen=True)
class LoadBalancing(AwsRule):
    """Fires where two GPUs' histograms of utilisation lie far apart (Jensen-Shannon distance)."""

    threshold: float = 0.5
    patience: int = 1000
    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Compare the histograms of every pair."""
        gpus, why = _speaking(recording, "utilisation")
        if why or len(gpus) < 2:
            return self.absent(why or "there are no two GPUs to compare")
        points = len(recording.system)
        if points <= self.patience:
            return self.too_few(points, self.patience)
        bins = np.arange(0, 102, 2)
        used = {f"gpu{device}": _gpu(recording, device, "utilisation") for device in gpus}
        counts = {name: np.histogram(values[~np.isnan(values)], bins)[0] for name, values in used.items()}
        details: dict[str, Any] = {}
        violations = 0
        for one, other in combinations(counts, 2):
            distance = jensen_shannon(counts[one], counts[other])
            if distance > self.threshold:
                violations += 1
                node = details.setdefault(NODE, {"workloads": {}, "distances": {}})
                node["workloads"] |= {one: counts[one].tolist(), other: counts[other].tolist()}
                node["distances"].setdefault(one, {})[other] = distance
        return self.judged(
            violations=violations,
            datapoints=points,
            details=details,
            meaning="GPUs do unequal work.",
            remedy="use DistributedDataParallel with one process per GPU instead of DataParallel",
        )


@aws_rule
@dataclass(frozen=True)
class OverallSystemUsage(AwsRule):
    """Never fires; its details are percentiles of the machine's use."""

    scan_interval_us: int = 60_000_000

    def judge(self, recording: ProfilerRecording) -> RuleResult:
        """Summarise the samples."""
        system = recording.system
        if not len(system):
            return self.too_few(0, 0)
        network = system["network_received_bytes_per_second"] + system["network_sent_bytes_per_second"]
        series = {
            "Network": network,
            "CPU": 100 * system["cpu"],
            "CPU memory": 100 * system["memory_used_bytes"] / system["memory_total_bytes"],
            "I/O": 100 * system["cpu_iowait"],
        }
        for name, column in (("GPU", "utilisation"), ("GPU memory", "memory")):
            gpus, why = _speaking(recording, column)
            if not why:
                known = np.array([_gpu(recording, device, column) for device in gpus])
                series[name] = known[:, ~np.isnan(known).any(axis=0)].mean(axis=0)
        details = {name: {NODE: _percentiles(values)} for name, values in series.items()}
        return self.judged(violations=0, datapoints=len(system), details=details)


def box_plot(values: np.ndarray) -> dict[str, float]:
    """Return the quartiles, the 95th percentile, and the whiskers at 1.5 times the interquartile range."""
    quantiles = {f"p{percent}": float(np.nanquantile(values, percent / 100)) for percent in (25, 50, 75, 95)}
    reach = 1.5 * (quantiles["p75"] - quantiles["p25"])
    return quantiles | {
        "upper": min(quantiles["p75"] + reach, float(np.nanmax(values))),
        "lower": max(quantiles["p25"] - reach, float(np.nanmin(values))),
    }


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Jensen-Shannon distance (natural logarithm) of two histograms.

    >>> jensen_shannon(np.array([4, 0]), np.array([4, 0])), round(jensen_shannon(np.array([4, 0]), np.array([0, 4])), 4)
    (0.0, 0.8326)
    """
    p, q = one / max(one.sum(), 1), other / max(other.sum(), 1)
    middle = (p + q) / 2
    return float(np.sqrt(max((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2, 0.0)))


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / q[there])))


def _bottleneck(
    rule: AwsRule,
    recording: ProfilerRecording,
    busy: np.ndarray,
    unit: str,
    patience: int,
    threshold: float,
    gpu_threshold: float,
) -> RuleResult:
    gpus, why = _speaking(recording, "utilisation")
    if why:
        return rule.absent(why)
    points = len(recording.system)
    if points <= patience:
        return rule.too_few(points, patience)
    idle = np.sum([_gpu(recording, device, "utilisation") < gpu_threshold for device in gpus], axis=0)
    both = (idle > 0) & (busy > 0)
    count = int(both.sum())
    times = recording.system["time"]
    details = {
        "low_gpu_utilization": int((idle > 0).sum()),
        "bottlenecks": {
            str(times[index]): {"GPUs": int(idle[index]), unit: int(busy[index])} for index in np.flatnonzero(both)
        },
    }
    exceeds = 100 * count / points > threshold
    return rule.judged(
        violations=count,
        triggered=int(exceeds),
        datapoints=points,
        details=details,
        meaning=f"For {100 * count / points:.0f} % of the time a GPU idles while the machine works on something else.",
        remedy="raise num_workers of the DataLoader, or prepare the data once beforehand",
    )


def _gpu(recording: ProfilerRecording, device: int, name: str) -> np.ndarray:
    """Return a GPU's share in percent; NaN where it did not say."""
    values: np.ndarray = 100 * recording.system[f"gpu/{device}/{name}"]
    return values


def _speaking(recording: ProfilerRecording, *names: str) -> tuple[list[int], str]:
    """Return the GPUs that say these of themselves, and why there are none."""
    if not recording.gpus:
        return [], _NO_GPU
    columns = {device: [_gpu(recording, device, name) for name in names] for device in range(recording.gpus)}
    found = [device for device, values in columns.items() if not any(np.isnan(value).all() for value in values)]
    return found, "" if found else f"no GPU says its {' and its '.join(names)}"


def _p95(values: np.ndarray, window: int) -> float:
    return float(np.nanquantile(values[-window:], 0.95))


def _percentiles(values: np.ndarray) -> dict[str, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return dict.fromkeys(("max", "p99", "p95", "p50", "min"), 0.0)
    found = {"max": known.max(), "p99": np.quantile(known, 0.99), "p95": np.quantile(known, 0.95)}
    found |= {"p50": np.quantile(known, 0.5), "min": known.min()}
    return {name: round(float(value), 2) for name, value in found.items()}
