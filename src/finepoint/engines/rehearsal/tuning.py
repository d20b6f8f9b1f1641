"""Tuning jobs of the stand-in: training jobs with drawn hyperparameters, the best by the objective's final value."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from finepoint.engines.rehearsal.training import ENDED, TrainingJob

if TYPE_CHECKING:
    from finepoint.engines.rehearsal.control import Platform

_POLL_SECONDS = 0.2


class TuningJob:
    """A hyperparameter tuning job; a grid is walked, and any other strategy draws at random: enough for a rehearsal."""

    def __init__(self, platform: Platform, request: Mapping[str, Any]) -> None:
        self.platform, self.request = platform, request
        self.name: str = request["HyperParameterTuningJobName"]
        self.arn = platform.arn("hyper-parameter-tuning-job", self.name)
        self.status, self.failure = "InProgress", ""
        self.created = datetime.now(UTC)
        self.ended: datetime | None = None
        self.trials: list[tuple[TrainingJob, dict[str, str]]] = []
        self._random = random.Random(self.name)  # noqa: S311 - a draw of hyperparameters
        config = request["HyperParameterTuningJobConfig"]
        lists = config["ParameterRanges"].get("CategoricalParameterRanges", ())
        self._points = math.prod(len(entry["Values"]) for entry in lists) if config["Strategy"] == "Grid" else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def objective(self) -> Mapping[str, str]:
        """What decides."""
        value: Mapping[str, str] = self.request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        return value

    def stop(self) -> None:
        """Ask it and its training jobs to stop."""
        self.status = "Stopping"
        self._stop.set()
        for job, _ in self.trials:
            if job.status == "InProgress":
                job.stop()

    def describe(self) -> dict[str, Any]:
        """Return what DescribeHyperParameterTuningJob answers."""
        kept = {key: value for key, value in self.request.items() if key not in ("Tags",)}
        states = [job.status for job, _ in self.trials]
        valued = [(self._value(job), job, values) for job, values in self.trials]
        finished = [(value, job, values) for value, job, values in valued if value is not None]
        better = min if self.objective["Type"] == "Minimize" else max
        best = better(finished, key=lambda entry: entry[0]) if finished else None
        return {
            **kept,
            "HyperParameterTuningJobArn": self.arn,
            "HyperParameterTuningJobStatus": self.status,
            "CreationTime": self.created,
            "TrainingJobStatusCounters": {
                "Completed": states.count("Completed"),
                "InProgress": states.count("InProgress") + states.count("Stopping"),
                "RetryableError": 0,
                "NonRetryableError": states.count("Failed"),
                "Stopped": states.count("Stopped"),
            },
            "ObjectiveStatusCounters": {
                "Succeeded": len(finished),
                "Pending": sum(state not in ENDED for state in states),
                "Failed": sum(state in ENDED for state in states) - len(finished),
            },
            **({"BestTrainingJob": self._summary(best[1], best[2])} if best else {}),
            **({"HyperParameterTuningEndTime": self.ended} if self.ended else {}),
            **({"FailureReason": self.failure} if self.failure else {}),
        }

    def summaries(self) -> list[dict[str, Any]]:
        """Return what ListTrainingJobsForHyperParameterTuningJob lists."""
        return [self._summary(job, values) for job, values in self.trials]

    def _summary(self, job: TrainingJob, values: Mapping[str, str]) -> dict[str, Any]:
        value = self._value(job)
        metric = {"Type": self.objective["Type"], "MetricName": self.objective["MetricName"], "Value": value}
        return {
            "TrainingJobName": job.name,
            "TrainingJobArn": job.arn,
            "CreationTime": job.created,
            "TrainingJobStatus": job.status,
            "TunedHyperParameters": dict(values),
            **({"TrainingStartTime": job.training_start} if job.training_start else {}),
            **({"TrainingEndTime": job.training_end} if job.training_end else {}),
            **({"FinalHyperParameterTuningJobObjectiveMetric": metric} if value is not None else {}),
        }

    def _value(self, job: TrainingJob) -> float | None:
        found = job.metrics.get(self.objective["MetricName"])
        return found[0] if found and job.status == "Completed" else None

    def _run(self) -> None:
        limits = self.request["HyperParameterTuningJobConfig"]["ResourceLimits"]
        total, parallel = self._points or limits["MaxNumberOfTrainingJobs"], limits["MaxParallelTrainingJobs"]
        while not self._stop.is_set():
            running = [job for job, _ in self.trials if job.status not in ENDED]
            if len(self.trials) == total and not running:
                break
            if len(self.trials) < total and len(running) < parallel:
                self._begin()
                continue
            self._stop.wait(_POLL_SECONDS)
        for job, _ in self.trials:
            job.join(300)
        self.ended = datetime.now(UTC)
        if self._stop.is_set():
            self.status = "Stopped"
            return
        succeeded = any(self._value(job) is not None for job, _ in self.trials)
        self.failure = "" if succeeded else "No training job ended with the objective metric"
        self.status = "Completed" if succeeded else "Failed"

    def _begin(self) -> None:
        definition = self.request["TrainingJobDefinition"]
        values = self._draw(self.request["HyperParameterTuningJobConfig"]["ParameterRanges"])
        static = dict(definition.get("StaticHyperParameters", {}))
        own = {"_tuning_objective_metric": json.dumps(self.objective["MetricName"])}
        kept = {
            key: value
            for key, value in definition.items()
            if key not in ("StaticHyperParameters", "DefinitionName", "TuningObjective", "HyperParameterRanges")
        }
        request = {
            **kept,
            "TrainingJobName": f"{self.name}-{len(self.trials) + 1:03d}",
            "HyperParameters": {**static, **values, **own},
        }
        limits = self.request["HyperParameterTuningJobConfig"]["ResourceLimits"]
        job = TrainingJob(self.platform, request, beside=limits["MaxParallelTrainingJobs"])
        self.platform.jobs[job.name] = job
        self.platform.tags[job.arn] = dict(self.platform.tags.get(self.arn, {}))
        self.trials.append((job, values))
        job.start()

    def _draw(self, ranges: Mapping[str, Any]) -> dict[str, str]:
        values: dict[str, str] = {}
        for kind in ("ContinuousParameterRanges", "IntegerParameterRanges"):
            for entry in ranges.get(kind, ()):
                low, high = float(entry["MinValue"]), float(entry["MaxValue"])
                if entry.get("ScalingType") == "Logarithmic":
                    value = math.exp(self._random.uniform(math.log(low), math.log(high)))
                else:
                    value = self._random.uniform(low, high)
                values[entry["Name"]] = str(round(value) if kind.startswith("Integer") else value)
        left = len(self.trials)
        for entry in ranges.get("CategoricalParameterRanges", ()):
            count = len(entry["Values"])
            values[entry["Name"]] = entry["Values"][left % count if self._points else self._random.randrange(count)]
            left //= count
        return values
