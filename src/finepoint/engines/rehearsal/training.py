"""Training jobs of the stand-in: their states, from Starting to their end, and what is left of them in S3."""

from __future__ import annotations

import math
import re
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finepoint.engines.rehearsal.container import GRACE_SECONDS, TrainingContainer
from finepoint.engines.rehearsal.environment import toolkit_environment
from finepoint.engines.rehearsal.objects import inputs_of
from finepoint.engines.rehearsal.pipes import Pipe
from finepoint.models.runtimes import cores

if TYPE_CHECKING:
    from finepoint.engines.rehearsal.control import Platform

_SYNC_SECONDS = 0.3
ENDED = ("Completed", "Failed", "Stopped")
_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading the training image and the input data",
    "Training": "Training image download completed. Training in progress.",
    "Interrupted": "The spot instance was reclaimed",
    "Uploading": "Uploading generated training model",
}


class TrainingJob:
    """A training job, run by a thread of its own.

    Args:
        platform: where it runs.
        request: as CreateTrainingJob got it.
        fate: `capacity`, `interrupt`, or "".
        beside: how many jobs of its study run at once, on the cores of this one machine.
    """

    def __init__(self, platform: Platform, request: Mapping[str, Any], fate: str = "", beside: int = 1) -> None:
        self.platform, self.request, self._fate, self._beside = platform, request, fate, beside
        self.name: str = request["TrainingJobName"]
        self.arn = platform.arn("training-job", self.name)
        self.status, self.secondary, self.failure = "InProgress", "Starting", ""
        self.created = self.modified = datetime.now(UTC)
        self.training_start: datetime | None = None
        self.training_end: datetime | None = None
        self.metrics: dict[str, tuple[float, datetime]] = {}
        self.transitions: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._stream = f"{self.name}/algo-1-{int(time.time())}"
        self._to("Starting")
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Let it run."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop."""
        self.status, self.secondary = "Stopping", "Stopping"
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout)

    def describe(self) -> dict[str, Any]:
        """Return what DescribeTrainingJob answers."""
        kept = {key: value for key, value in self.request.items() if key != "Tags"}
        output = self.request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        times = {
            "TrainingStartTime": self.training_start,
            "TrainingEndTime": self.training_end,
            "BillableTimeInSeconds": self._seconds(),
            "TrainingTimeInSeconds": self._seconds(),
        }
        return {
            **kept,
            "TrainingJobArn": self.arn,
            "TrainingJobStatus": self.status,
            "SecondaryStatus": self.secondary,
            "SecondaryStatusTransitions": list(self.transitions),
            "CreationTime": self.created,
            "LastModifiedTime": self.modified,
            "ModelArtifacts": {"S3ModelArtifacts": f"{output}/{self.name}/output/model.tar.gz"},
            "FinalMetricDataList": [
                {"MetricName": name, "Value": value, "Timestamp": at} for name, (value, at) in self.metrics.items()
            ],
            **({"FailureReason": self.failure[:1024]} if self.failure else {}),
            **{name: value for name, value in times.items() if value is not None},
        }

    def _seconds(self) -> int | None:
        if self.training_start is None:
            return None
        return max(1, round(((self.training_end or datetime.now(UTC)) - self.training_start).total_seconds()))

    def _to(self, secondary: str) -> None:
        now = datetime.now(UTC)
        if self.transitions:
            self.transitions[-1]["EndTime"] = now
        self.transitions.append(
            {"Status": secondary, "StartTime": now, "StatusMessage": _MESSAGES.get(secondary, secondary)}
        )
        self.secondary, self.modified = secondary, now

    def _end(self, status: str, secondary: str, failure: str = "") -> None:
        self._to(secondary)
        self.failure, self.training_end = failure, datetime.now(UTC) if self.training_start else None
        self.status = status  # last, for whoever polls it

    def _run(self) -> None:
        try:
            self._stop.wait(self.platform.pause)
            if self._fate == "capacity":
                kind = self.request["ResourceConfig"].get("InstanceType")
                words = f"CapacityError: Unable to provision requested ML compute capacity ({kind}). Please retry"
                self._end("Failed", "Failed", words)
                return
            with tempfile.TemporaryDirectory(prefix="rehearsal-", ignore_cleanup_errors=True) as name:
                while self._try(Path(name) / f"try-{len(self.transitions)}"):
                    self._fate = ""
        except Exception as error:  # noqa: BLE001 - the platform's own fault ends the job, as AWS's would
            self._end("Failed", "Failed", f"InternalServerError: We encountered an internal error: {error}")

    def _try(self, folder: Path) -> bool:
        """Run the container once, and return whether it is to be run again."""
        platform, request = self.platform, self.request
        self._to("Downloading")
        variables = platform.variables()
        if self._beside > 1:  # they would wait for each other's threads
            variables["OMP_NUM_THREADS"] = str(max(1, cores() // self._beside))
        container = TrainingContainer(folder, request, variables, self._take_line)
        pipes: list[Pipe] = []
        try:
            for name, mode, source in inputs_of(request):
                place = container.base / "input" / "data" / name
                if mode == "Pipe":
                    pipes.append(Pipe(platform.objects, source, place))
                else:
                    platform.objects.download(source, place)
            checkpoints = request.get("CheckpointConfig", {}).get("S3Uri")
            known: dict[str, tuple[float, int]] = {}
            if checkpoints:
                kept = {"S3DataType": "S3Prefix", "S3Uri": checkpoints}
                platform.objects.download(kept, container.base / "checkpoints")
            if self._stop.is_set():
                self._end("Stopped", "Stopped")
                return False
            platform.objects.open_log(self._stream)
            toolkit = toolkit_environment(platform.cache)
            self._to("Training")
            self.training_start = self.training_start or datetime.now(UTC)
            container.start(toolkit)
            for pipe in pipes:
                pipe.start()
            code, why = self._watch(container, checkpoints, known)
            self._flush()
            if checkpoints:
                platform.objects.synchronise(container.base / "checkpoints", checkpoints, known)
            if why == "Interrupted":
                self._to("Interrupted")
                return True
            self._upload(container)
            self._conclude(container, code, why)
            return False
        finally:
            for pipe in pipes:
                pipe.stop()
            container.remove()

    def _watch(
        self, container: TrainingContainer, checkpoints: str | None, known: dict[str, tuple[float, int]]
    ) -> tuple[int, str]:
        """Return the container's exit code, and why it was ended, or ""."""
        limits = self.request["StoppingCondition"]
        deadline = time.monotonic() + limits.get("MaxRuntimeInSeconds", 86400)
        kill_at, why = math.inf, ""
        while (code := container.poll(_SYNC_SECONDS)) is None:
            self._flush()
            if checkpoints:
                self.platform.objects.synchronise(container.base / "checkpoints", checkpoints, known)
            reason = "Stopped" if self._stop.is_set() else "MaxRuntimeExceeded" if time.monotonic() > deadline else ""
            if self._fate == "interrupt" and known:
                reason = "Interrupted"
            if reason and not why:
                why, kill_at = reason, time.monotonic() + GRACE_SECONDS
                container.signal(signal.SIGTERM)
            if time.monotonic() > kill_at:
                container.signal(signal.SIGKILL)
        return code, why

    def _upload(self, container: TrainingContainer) -> None:
        self._to("Uploading")
        base = f"{self.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self.name}/output"
        self.platform.objects.upload_archive(container.base / "model", f"{base}/model.tar.gz")
        self.platform.objects.upload_archive(container.base / "output" / "data", f"{base}/output.tar.gz")

    def _conclude(self, container: TrainingContainer, code: int, why: str) -> None:
        if why:
            self._end("Stopped", why)
        elif code == 0:
            self._end("Completed", "Completed")
        else:
            self._end("Failed", "Failed", f"AlgorithmError: {container.failure.strip()}, exit code: {code}")

    def _take_line(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
        for definition in self.request["AlgorithmSpecification"].get("MetricDefinitions", ()):
            for match in re.finditer(definition["Regex"], line):
                try:
                    self.metrics[definition["Name"]] = (float(match.group(1)), datetime.now(UTC))
                except (ValueError, IndexError):
                    continue

    def _flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        self.platform.objects.log(self._stream, lines)


def why_refused(platform: Platform, request: Mapping[str, Any]) -> str:
    """Return why a job cannot run: its inputs, as the service says it, or several hosts, which are not rehearsed."""
    if request["ResourceConfig"].get("InstanceCount", 1) > 1:
        return "The rehearsal runs a job on one host; InstanceCount must be 1"
    for name, _, source in inputs_of(request):
        if not platform.objects.keys(uri := source["S3Uri"]):
            return f"No S3 objects found under S3 URL {uri!r} given in input data source of channel {name}."
    return ""
