"""A job on SageMaker: submit it, follow it, bring its results home; the same as the local engine's `run_job`."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finepoint.data.extracting import Limits, extract
from finepoint.engines.debugging import judge_job
from finepoint.engines.local import STOPPED as STOPPED_ON_REQUEST
from finepoint.engines.local import Watcher
from finepoint.engines.metrics import explain_missing
from finepoint.engines.profiling import judge_profile
from finepoint.engines.recorded import PARTS, STOPPED, is_recorded, recordings_below
from finepoint.engines.records import CLOUD_RECORD as RECORD
from finepoint.engines.records import JobFolder
from finepoint.engines.sagemaker.asked import asked, refuse_another, without_code
from finepoint.engines.sagemaker.channels import push_channels
from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.engines.sagemaker.ledger import Ledger, cloud_name, forget_name
from finepoint.engines.sagemaker.logs import JobLog
from finepoint.engines.sagemaker.rates import add_bill, price, refuse_above, spent
from finepoint.engines.sagemaker.requests import (
    Places,
    instance_count,
    instance_type,
    tell_volume_key,
    training_request,
)
from finepoint.engines.sagemaker.settings import SageMakerSettings, load_settings
from finepoint.engines.sagemaker.source import source_archive
from finepoint.engines.sagemaker.store import S3Store
from finepoint.engines.sagemaker.transfer import fetch, pull, put
from finepoint.engines.spec import JobResult, JobSpec, JobStatus
from finepoint.errors import CloudError, DataError, InputError, JobError
from finepoint.events import parse
from finepoint.files import read_json, write_bytes, write_json

ENDED = ("Completed", "Failed", "Stopped")
# What AWS's secondary statuses of a stopped job say.
_STOPPED = {
    "Stopped": STOPPED_ON_REQUEST,
    "MaxRuntimeExceeded": "it ran longer than max_run",
    "MaxWaitTimeExceeded": "it waited longer than max_wait",
}
_TAIL = 60
# Of what a job of the user's left; it may be large, and shrink as it likes.
_OUTPUT_LIMITS = Limits(ratio=math.inf)


class SageMakerEngine:
    """Runs jobs on SageMaker.

    Args:
        settings: where and on what.
        cloud: the account; by default the one that boto3 finds.
        run: name that the ledger keeps the created resources under; by default each job's own.
        sleep: waits so many seconds between two looks.
    """

    def __init__(
        self,
        settings: SageMakerSettings,
        cloud: Cloud | None = None,
        *,
        run: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings
        self.cloud = cloud or Cloud(settings.region)
        self._run, self._sleep = run, sleep

    @classmethod
    def of(cls, folder: Path) -> SageMakerEngine:
        """Return the engine that a job was submitted by."""
        record = read_json(folder / RECORD)
        return cls(load_settings(**record["settings"]), Cloud(record["region"]), run=record["run"])

    def run_job(self, folder: Path, spec: JobSpec, watcher: Watcher | None = None) -> JobResult:
        """Run a job to its end and return what became of it; errors are as of the local engine.

        What is under way already, from an interrupted command, is found and followed.

        Raises:
            InputError: a module of finepoint's says that what it was given cannot be used.
            JobError: it failed otherwise.
            ConfigurationError: it may cost too much, or does not fit.
            CloudError: AWS refused or failed.
            KeyboardInterrupt: it was interrupted; the job was told to stop.
        """
        watcher = watcher or Watcher()
        self.submit(folder, spec, watcher)
        return self.collect(folder, spec, watcher)

    def collect(self, folder: Path, spec: JobSpec, watcher: Watcher, *, stopping: bool = True) -> JobResult:
        """Follow a submitted job to its end, bring its results home, and return what became of it.

        Args:
            folder: the job's.
            spec: of the job.
            watcher: is told what happens.
            stopping: an interrupt (Ctrl-C) stops the job in AWS; otherwise it goes on there.

        Raises:
            FinepointError: as of `run_job`.
        """
        begin = time.monotonic()
        try:
            described = self.follow(folder, spec, watcher)
        except KeyboardInterrupt:
            if not stopping:
                raise
            watcher.say("Interrupted: telling the job in AWS to stop")
            stop(self.cloud, folder)
            raise
        return self._finish(folder, spec, watcher, described, time.monotonic() - begin)

    def submit(self, folder: Path, spec: JobSpec, watcher: Watcher) -> str:
        """Upload what a job needs and start it, unless it is under way or done; return its name in AWS.

        Raises:
            ConfigurationError: the job of this folder that is under way or done was asked for otherwise.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = cloud_name(folder, spec.name)
        there = self._describe(name)
        if there is not None and there["TrainingJobStatus"] in ("Failed", "Stopped", "Stopping"):
            _bill(folder, there)  # whoever began it may have been killed before its end
            forget_name(folder)  # its checkpoints stay, and the next try goes on from them
            name, there = cloud_name(folder, spec.name), None
        if there is not None:
            self._compare(folder, name, spec, there["TrainingJobStatus"], watcher)
            watcher.say(f"Going on with the job {name} in AWS, which is {there['TrainingJobStatus']}")
            return name
        kind, count = instance_type(spec, self.settings), instance_count(spec, self.settings)
        # A warm machine costs as a working one does.
        seconds = (spec.limits.max_run_seconds or self.settings.max_run_seconds) + self.settings.keep_alive_seconds
        before = spent(folder.parent if self._run else folder).dollars
        watcher.say(
            refuse_above(
                f"Job {spec.name}", kind, seconds / 3600, count, self.settings.max_price, self.cloud.region, before
            )
        )
        tell_volume_key(kind, self.settings.kms_key, watcher.say)
        request = self.request(folder, name, spec, watcher)
        JobFolder(folder).begin(spec)
        self.note(folder, {"training_job": name, "request": asked(request)})
        try:
            with self.ledger(spec).creating("training-job", name, self.cloud.region, kind):
                self.cloud.call("sagemaker", "CreateTrainingJob", **request)
        except CloudError as error:
            JobFolder(folder).finish("Failed", failure=str(error))
            raise
        watcher.say(f"Job {name} is submitted to {self.cloud.region}")
        return name

    def request(self, folder: Path, name: str, spec: JobSpec, watcher: Watcher) -> dict[str, Any]:
        """Upload a job's channels and code, and return its request."""
        settings = self.settings
        archive, entry_point = source_archive(spec)
        watcher.say(f"Uploading what job {spec.name} reads to {settings.uri('data')}")
        channels = push_channels(self.cloud, spec, settings)
        code = settings.uri("code", hashlib.sha256(archive).hexdigest()[:32], "sourcedir.tar.gz")
        put(self.cloud, code, archive, settings.kms_key)
        checkpoints = spec.checkpoint_location or settings.uri("checkpoints", _stable(folder, name))
        places = Places(code, entry_point, channels, settings.uri("jobs"), checkpoints)
        return training_request(name, spec, settings, self.cloud.region, places)

    def adopt(self, folder: Path, name: str, spec: JobSpec, watcher: Watcher, *, outputs: bool = True) -> JobResult:
        """Bring the results of a job home that AWS made by itself, a trial of its tuner's, and return what it came to.

        Args:
            folder: for the job.
            name: of the job in AWS, which has ended.
            spec: what it ran.
            watcher: is told what happens.
            outputs: also its model and output, which may be large; otherwise its record and recordings alone.

        Raises:
            JobError: it failed.
        """
        described = self.cloud.call("sagemaker", "DescribeTrainingJob", TrainingJobName=name)
        folder.mkdir(parents=True, exist_ok=True)
        JobFolder(folder).begin(spec)
        self.note(folder, {"training_job": name})
        lines = JobLog(self.cloud, name, folder / "logs.txt").new_lines()
        seconds = float(described.get("TrainingTimeInSeconds", 0))
        return self._finish(folder, spec, watcher, {**described, "tail": lines}, seconds, outputs=outputs)

    def follow(self, folder: Path, spec: JobSpec, watcher: Watcher) -> dict[str, Any]:
        """Pass on what a job prints until it has ended, and return what AWS says of it then."""
        name = str(read_json(folder / RECORD)["training_job"])
        log = JobLog(self.cloud, name, folder / "logs.txt")
        before = ""
        tail = _Tail(spec, watcher)
        while True:
            described = self.cloud.call("sagemaker", "DescribeTrainingJob", TrainingJobName=name)
            for line in log.new_lines():
                tail.take(line)
            if described["SecondaryStatus"] != before:
                before = described["SecondaryStatus"]
                watcher.say(f"{name}: {before}{_reason(described)}")
            if described["TrainingJobStatus"] in ENDED:
                for line in log.new_lines():
                    tail.take(line)
                return {**described, "tail": list(tail.lines)}
            self._sleep(self.settings.poll_seconds)

    def note(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Write into a folder what is there in AWS, and with what settings: what a later process goes on with."""
        path = folder / RECORD
        own = {"region": self.cloud.region, "run": self._run, "settings": asdict(self.settings)}
        write_json(path, {**(read_json(path) if path.is_file() else {}), **own, **values})

    def ledger(self, spec: JobSpec) -> Ledger:
        """Return the ledger that a job's resources are written into."""
        return Ledger(self._run or spec.name)

    def _compare(self, folder: Path, name: str, spec: JobSpec, status: str, watcher: Watcher) -> None:
        """Refuse to take a job for what is asked for now, unless it was asked for alike."""
        before, now = read_json(folder / RECORD).get("request"), asked(self.request(folder, name, spec, watcher))
        if not spec.is_script and before is not None:
            if before != now and without_code(before) == without_code(now):
                watcher.say(f"warning: job {name} was begun by another version of finepoint")
            before, now = without_code(before), without_code(now)
        refuse_another(f"job {name} in AWS is {status}", self.ledger(spec).name, before, now)

    def _finish(
        self,
        folder: Path,
        spec: JobSpec,
        watcher: Watcher,
        described: Mapping[str, Any],
        seconds: float,
        *,
        outputs: bool = True,
    ) -> JobResult:
        name, job = described["TrainingJobName"], JobFolder(folder)
        if outputs:
            bring_home(self.cloud, described, folder, watcher.say)
        status: JobStatus = described["TrainingJobStatus"]
        failure = str(described.get("FailureReason", "")) if status == "Failed" else ""
        if status == "Stopped":
            failure = _STOPPED.get(described["SecondaryStatus"], described["SecondaryStatus"])
        metrics = {entry["MetricName"]: float(entry["Value"]) for entry in described.get("FinalMetricDataList", ())}
        billed, cost = _bill(folder, described)
        if billed:
            words = "at an unknown rate" if cost is None else f"about {cost:.4f} US dollars"
            watcher.say(f"{name}: billed for {billed} s of {described['ResourceConfig']['InstanceType']}, {words}")
        for metric in spec.metric_definitions:
            if status == "Completed" and metric.name not in metrics:
                watcher.say(f"warning: {explain_missing(metric, described['tail'])}")
        code = 0 if status == "Completed" else _exit_code(failure)
        self._bring_recordings(folder, described, spec)
        if status == "Completed" and (folder / STOPPED).is_file():
            status, failure = "Stopped", (folder / STOPPED).read_text(encoding="utf-8")
        judged = judge_job(folder, spec.debugger, watcher.say)
        job.finish(
            status,
            rules={result.rule: result.status for result in judged},
            profiler_rules=judge_profile(folder, spec.profiler, watcher.say),
            exit_code=code,
            failure=failure,
            metrics=metrics,
            seconds=round(seconds, 3),
        )
        self.note(folder, {"status": status, "billable_seconds": billed, "dollars": cost})
        self.ledger(spec).strike("training-job", name)
        words = _last_error(described["tail"]) or failure
        if status == "Failed":
            write_bytes(job.failure, failure.encode())
            if code == 2 and not spec.is_script:
                raise InputError(words)
            raise JobError(f"job {name} failed in AWS. {words}")
        return JobResult(status, code, folder, failure, seconds, metrics)

    def _bring_recordings(self, folder: Path, described: Mapping[str, Any], spec: JobSpec) -> None:
        """Download what the debugger and the profiler recorded, from below the checkpoints."""
        if not is_recorded(spec):
            return
        below = recordings_below(described["HyperParameters"], described["TrainingJobName"])
        base = "/".join([described["CheckpointConfig"]["S3Uri"].rstrip("/"), *filter(None, [below])])
        for part in PARTS:
            uri = f"{base}/{part}"
            with contextlib.suppress(DataError):  # nothing was recorded; the rules say why
                pull(self.cloud, uri, folder / part)

    def _describe(self, name: str) -> dict[str, Any] | None:
        try:
            return self.cloud.call("sagemaker", "DescribeTrainingJob", TrainingJobName=name)
        except CloudError as error:
            if is_missing(error):
                return None
            raise


class _Tail:
    """Passes lines on, events of finepoint's own modules as such, and keeps the last ones."""

    def __init__(self, spec: JobSpec, watcher: Watcher) -> None:
        self.lines: deque[str] = deque(maxlen=_TAIL)
        self._spec, self._watcher = spec, watcher

    def take(self, line: str) -> None:
        event = None if self._spec.is_script else parse(line)
        if event is not None:
            self._watcher.on_event(event)
            return
        self.lines.append(line)
        self._watcher.on_line("algo-1", line + "\n")


def _bill(folder: Path, described: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Write down what a job was billed for, and return its seconds and US dollars, None where they are unknown."""
    billed, resources = described.get("BillableTimeInSeconds"), described["ResourceConfig"]
    if not billed:
        return billed, None
    kind, count = resources["InstanceType"], resources["InstanceCount"]
    add_bill(folder, described["TrainingJobName"], kind, count, billed)
    return billed, price(kind, billed / 3600, count)


def stop(cloud: Cloud, folder: Path) -> None:
    """Tell the job of a folder to stop; nothing where it has ended."""
    name = str(read_json(folder / RECORD)["training_job"])
    try:
        cloud.call("sagemaker", "StopTrainingJob", TrainingJobName=name)
    except CloudError as error:
        if error.code != "ValidationException":
            raise


def bring_log(folder: Path) -> None:
    """Bring the log of a submitted job up to date in its folder, unless it has come home."""
    record = read_json(folder / RECORD)
    if "status" not in record:
        JobLog(Cloud(record["region"]), record["training_job"], folder / "logs.txt").new_lines()


def recordings_of(folder: Path) -> tuple[str, S3Store]:
    """Return the address that the recordings of a submitted job arrive under while it runs, and what reads it."""
    record = read_json(folder / RECORD)
    return str(record["request"]["CheckpointConfig"]["S3Uri"]).rstrip("/"), S3Store(Cloud(record["region"]))


def bring_home(
    cloud: Cloud, described: Mapping[str, Any], folder: Path, say: Callable[[str], None] = lambda text: None
) -> None:
    """Download model and output of a job into its folder, and unpack them as the local engine leaves them."""
    base = f"{described['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{described['TrainingJobName']}/output"
    for archive, target in (("model.tar.gz", "model"), ("output.tar.gz", "output/data")):
        path = folder / "output" / archive
        try:
            fetch(cloud, f"{base}/{archive}", path)
        except CloudError as error:
            if is_missing(error):
                continue
            raise
        place = folder / target
        if place.exists():
            shutil.rmtree(place)
        try:
            extract(path, place, _OUTPUT_LIMITS)
        except DataError as error:
            place.mkdir(parents=True)
            say(f"warning: {error}; what the job left is in {path}, not unpacked")


def _stable(folder: Path, name: str) -> str:
    """Return the name that all tries of one job keep their checkpoints under."""
    path = folder / RECORD
    kept = read_json(path).get("checkpoints") if path.is_file() else None
    if kept is None:
        kept = name
        write_json(path, {**(read_json(path) if path.is_file() else {}), "checkpoints": kept, "training_job": name})
    return str(kept)


def _reason(described: Mapping[str, Any]) -> str:
    return f" ({described['FailureReason'].splitlines()[0]})" if described.get("FailureReason") else ""


def _exit_code(failure: str) -> int:
    found = failure.rpartition("ExitCode ")[2].split()
    return int(found[0]) if found and found[0].lstrip("-").isdigit() else 1


def _last_error(lines: list[str]) -> str:
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else ""
