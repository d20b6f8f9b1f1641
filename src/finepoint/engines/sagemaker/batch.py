"""Batch transform: predictions for a folder of images, by machines that run only for that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.engines.sagemaker.endpoints import delete
from finepoint.engines.sagemaker.images import image_for
from finepoint.engines.sagemaker.ledger import Ledger, cloud_name, forget_name
from finepoint.engines.sagemaker.rates import refuse_above
from finepoint.engines.sagemaker.requests import network_request, tags_of, tell_volume_key, volume_key
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.transfer import files_of, pull, push
from finepoint.errors import CloudError, JobError, NothingThereError
from finepoint.files import digest_of, sha256_of, state_dir

_ENDED = ("Completed", "Failed", "Stopped")
_STEM = "finepoint-transform"


def transform(
    cloud: Cloud,
    settings: SageMakerSettings,
    package: Path,
    images: Path,
    target: Path,
    *,
    content_type: str = "image/jpeg",
    say: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Predict every file of a folder by a batch transform job, and put the answers (`NAME.out`) into a folder.

    The job has one name for these images and this model on this machine: a repeated call goes on with the job that is
    under way, and one that is done is not done again. An interrupt (Ctrl-C) stops it. AWS knows no limit for such
    jobs: it is stopped from here after `max_run_seconds`.

    Args:
        cloud: the account.
        settings: where and on what.
        package: `model.tar.gz`.
        images: the folder; every file is sent as it is.
        target: where the answers go.
        content_type: of the files.
        say: is told what is done.
        sleep: waits so many seconds between two looks.

    Returns:
        how many answers there are.

    Raises:
        JobError: the job failed; AWS's reason is given.
        ConfigurationError: it may cost more than `max_price`.
        KeyboardInterrupt: it was interrupted; the job was stopped.
    """
    files = files_of(images)
    sent = digest_of({name: sha256_of(path) for name, path in files.items()})[:32]
    image = image_for("inference", cloud.region, settings.inference_instance_type, settings.inference_image)
    model = sha256_of(package)
    what = {"images": sent, "model": model, "image": image, "content_type": content_type, "region": cloud.region}
    folder = state_dir() / "transforms" / digest_of(what)[:32]
    job = _Transform(cloud, settings, cloud_name(folder, _STEM), say, sleep)
    before = job.status()
    if before in ("Stopping", "Stopped", "Failed"):  # a name cannot be used twice
        forget_name(folder)
        job, before = _Transform(cloud, settings, cloud_name(folder, _STEM), say, sleep), ""
    if before:
        say(f"Going on with batch transform {job.name}, which is {before}")
    else:
        kind, hours = settings.inference_instance_type, settings.max_run_seconds / 3600
        say(refuse_above(f"Batch transform {job.name}", kind, hours, 1, settings.max_price, cloud.region))
        tell_volume_key(kind, settings.kms_key, say)
        source, url = settings.uri("transforms", sent), settings.uri("models", model[:32])
        push(cloud, files, source, kms_key=settings.kms_key)
        push(cloud, {"model.tar.gz": package}, url, kms_key=settings.kms_key)
        job.begin(f"{source}/", {"Image": image, "ModelDataUrl": f"{url}/model.tar.gz"}, content_type)
    described = job.follow()
    if described["TransformJobStatus"] != "Completed":
        forget_name(folder)
        reason = described.get("FailureReason", "")
        if job.overtime:
            reason = f"It was stopped after max_run_seconds ({settings.max_run_seconds}); allow more, or send less"
        raise JobError(f"batch transform {job.name} is {described['TransformJobStatus']}. {reason}")
    try:
        return pull(cloud, job.answers, target).files
    except NothingThereError as error:
        forget_name(folder)
        raise JobError(f"{error}; its answers were removed. The same command predicts them again") from error


@dataclass
class _Transform:
    """A batch transform job and its model, which has the same name.

    Args:
        cloud: the account.
        settings: where and on what.
        name: of both.
        say: is told what is done.
        sleep: waits so many seconds between two looks.
        overtime: whether it was stopped because it ran too long.
    """

    cloud: Cloud
    settings: SageMakerSettings
    name: str
    say: Callable[[str], None]
    sleep: Callable[[float], None]
    overtime: bool = False

    @property
    def answers(self) -> str:
        """Where its answers are."""
        return self.settings.uri("transforms", self.name)

    def status(self) -> str:
        """Return its status; "" where there is no such job."""
        described = self._describe()
        return str(described["TransformJobStatus"]) if described is not None else ""

    def begin(self, source: str, container: Mapping[str, str], content_type: str) -> None:
        """Make model and job; of what AWS refuses nothing is left."""
        region, kind = self.cloud.region, self.settings.inference_instance_type
        ledger = Ledger(self.name)
        with ledger.creating("model", self.name, region):
            self.cloud.call("sagemaker", "CreateModel", **self._model(container))
        try:
            with ledger.creating("transform-job", self.name, region, kind):
                self.cloud.call("sagemaker", "CreateTransformJob", **self._request(source, content_type))
        except CloudError:
            if self.status() == "":
                self._gone()
            raise
        self.say(f"Batch transform {self.name} is submitted")

    def follow(self) -> dict[str, Any]:
        """Wait until it has ended, delete its model, and return what AWS says of it; an interrupt stops it."""
        try:
            described = self._wait()
        except KeyboardInterrupt:
            again = f"another interrupt leaves that to `finepoint cleanup {self.name}`"
            self.say(f"Interrupted: stopping batch transform {self.name} in AWS; {again}")
            self._stop()
            self._wait()
            self._gone()
            raise
        self._gone()
        return described

    def _model(self, container: Mapping[str, str]) -> dict[str, Any]:
        return {
            "ModelName": self.name,
            "PrimaryContainer": dict(container),
            "ExecutionRoleArn": self.settings.role,
            "Tags": tags_of(self.name, self.settings),
            **network_request(self.settings),
        }

    def _request(self, source: str, content_type: str) -> dict[str, Any]:
        settings = self.settings
        output = {"S3OutputPath": self.answers, "Accept": "application/json"}
        resources: dict[str, Any] = {"InstanceType": settings.inference_instance_type, "InstanceCount": 1}
        if settings.kms_key:
            output["KmsKeyId"] = settings.kms_key
        if volume_key(settings.inference_instance_type, settings.kms_key):
            resources["VolumeKmsKeyId"] = settings.kms_key
        data = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": source}}
        return {
            "TransformJobName": self.name,
            "ModelName": self.name,
            "TransformInput": {"DataSource": data, "ContentType": content_type},
            "TransformOutput": output,
            "TransformResources": resources,
            "Tags": tags_of(self.name, settings),
        }

    def _describe(self) -> dict[str, Any] | None:
        try:
            return self.cloud.call("sagemaker", "DescribeTransformJob", TransformJobName=self.name)
        except CloudError as error:
            if is_missing(error):
                return None
            raise

    def _wait(self) -> dict[str, Any]:
        while True:
            described = self._describe()
            if described is not None and described["TransformJobStatus"] in _ENDED:
                return described
            if described is not None and not self.overtime and self._seconds(described) > self.settings.max_run_seconds:
                self.overtime = True
                self._stop()
            self.sleep(self.settings.poll_seconds)

    def _seconds(self, described: Mapping[str, Any]) -> float:
        begun = described.get("TransformStartTime")
        return (datetime.now(UTC) - begun).total_seconds() if begun else 0.0

    def _stop(self) -> None:
        try:
            self.cloud.call("sagemaker", "StopTransformJob", TransformJobName=self.name)
        except CloudError as error:
            if error.code != "ValidationException":  # it has ended
                raise

    def _gone(self) -> None:
        ledger = Ledger(self.name)
        ledger.strike("transform-job", self.name)
        delete(self.cloud, "model", self.name)
        ledger.strike("model", self.name)
