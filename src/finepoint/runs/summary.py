"""`summary.json`: the machine's copy of the report. docs/summary.md describes every key."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from finepoint.data.dataset import DataSet
from finepoint.evaluation.verdict import judge
from finepoint.files import read_json, write_json
from finepoint.models.building import versions
from finepoint.models.runtimes import cores
from finepoint.runs.debugging import debugger_summary
from finepoint.runs.folder import RunFolder
from finepoint.runs.options import RunOptions
from finepoint.runs.profiling import profiler_summary

# Keys that differ between two runs of the same thing on the same machine: times, paths, measured speeds, the steps that
# the debugger's budget let it look at, and what the cache already had. Everything else is the same.
VARYING_KEYS = frozenset(
    {
        "run",
        "command",
        "started_at",
        "finished_at",
        "seconds",
        "seconds_total",
        "images_per_second",
        "images_embedded",
        "images_from_cache",
        "runtime_reason",
        "series",
        "speedup",
        "path",
        "attempts",
        "profiler",
    }
)


def write_summary(folder: RunFolder, options: RunOptions) -> dict[str, Any]:
    """Write a run's `summary.json` from what its steps left, and return it."""
    record = folder.read()
    tuned = _read(folder.tuning / "output" / "data" / "tuning.json")
    trained = _read(folder.training / "output" / "data" / "training.json")
    tested = _read(folder.evaluation / "metrics.json")
    features = [
        part.get("features", part) for part in (tuned, trained, _read(folder.evaluation / "features.json")) if part
    ]
    summary: dict[str, Any] = {
        "schema_version": 1,
        "run": folder.name,
        "kind": record["kind"],
        "status": record["status"],
        "command": record["command"],
        "started_at": record["started_at"],
        "finished_at": record["finished_at"],
        "seed": options.seed,
        "versions": versions(),
        "machine": machine(),
        "data": _data(DataSet.load(folder.data), features),
        "backbones": (trained or tuned or {}).get("backbones", []),
        "features": _features(features, first=tuned or trained),
    }
    if tuned:
        summary["tuning"] = tuned["tuning"]
    if trained:
        kept = ("hyperparameters", "epochs", "best_epoch", "seconds", "temperature")
        summary["training"] = {key: trained[key] for key in kept}
    if trained and (judged := debugger_summary(folder)):
        summary["debugger"] = judged
    if profiled := profiler_summary(folder):
        summary["profiler"] = profiled
    if tested:
        summary["test"] = {**tested, "times_read": len(folder.readings())}
        summary["parity"] = (_read(folder.evaluation / "features.json") or {}).get("parity")
    if record.get("model"):
        summary["model"] = record["model"]
    packaged, quantised = _read(folder.package / "finepoint.json"), _read(folder.quantisation)
    if packaged and quantised and quantised.pop("graph_sha256") == packaged["graph"]["sha256"]:
        summary["quantisation"] = quantised
    summary["report_path"] = folder.report.name
    # The report is being written now and takes a tenth of a second.
    summary["seconds_total"] = round(sum(step["seconds"] for step in record["steps"].values()), 1)
    if tested:
        summary["verdict"] = judge(summary)
    write_json(folder.summary, summary)
    return summary


def without_varying(value: Any) -> Any:
    """Return a summary without what differs between two runs of the same thing.

    Of the debugger's findings rule and status are kept: which steps it can afford to record, and so the numbers that
    it shows, depends on the machine's speed.

    >>> without_varying({"seed": 1, "seconds": 2.5, "trials": [{"value": 1, "seconds": 3}]})
    {'seed': 1, 'trials': [{'value': 1}]}
    """
    if isinstance(value, Mapping):
        return {
            key: [(finding["rule"], finding["status"]) for finding in item["findings"]]
            if key == "debugger"
            else without_varying(item)
            for key, item in value.items()
            if key not in VARYING_KEYS
        }
    if isinstance(value, list):
        return [without_varying(item) for item in value]
    return value


def machine() -> dict[str, Any]:
    """Return what this machine is: processor, cores, memory in bytes, system."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _data(data: DataSet, features: list[Mapping[str, Any]]) -> dict[str, Any]:
    failures = {path: reason for part in features for path, reason in part.get("failures", {}).items()}
    skipped = [asdict(image) for image in data.skipped]
    skipped += [{"path": path, "reason": reason} for path, reason in sorted(failures.items())]
    sizes = [image.bytes for image in data.images]
    return {
        "root": str(data.root),
        "fingerprint": data.fingerprint(),
        "classes": list(data.classes),
        "images": data.counts(),
        "images_per_class": data.class_counts(),
        "formats": dict(Counter(Path(image.path).suffix.lower() for image in data.images).most_common()),
        "bytes": sum(sizes),
        "skipped": skipped,
        "leaks": [asdict(leak) for leak in data.leaks],
        "findings": [finding.to_json() for finding in data.findings],
    }


def _features(parts: list[Mapping[str, Any]], first: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add up the passes: the first one over train and valid, and the one over the test part."""
    if first is None:
        return {"images_embedded": 0, "images_from_cache": 0, "seconds": 0.0, "images_per_second": 0.0}
    passes = [first["features"]] + [part for part in parts if "parity" in part]
    embedded = sum(part["images_embedded"] for part in passes)
    seconds = sum(part["seconds"] for part in passes)
    return {
        "images_embedded": embedded,
        "images_from_cache": sum(part["images_from_cache"] for part in passes),
        "seconds": round(seconds, 3),
        "images_per_second": round(embedded / seconds, 1) if embedded and seconds else 0.0,
    }


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
