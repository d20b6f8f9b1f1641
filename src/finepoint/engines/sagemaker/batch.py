"""Batch transform: predictions for a folder of images, by machines that run only for that."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finepoint.engines.sagemaker.cloud import Cloud, is_missing, is_taken
from finepoint.engines.sagemaker.endpoints import delete
from finepoint.engines.sagemaker.images import image_for
from finepoint.engines.sagemaker.ledger import Ledger
from finepoint.engines.sagemaker.rates import refuse_above
from finepoint.engines.sagemaker.requests import tags_of
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.transfer import files_of, pull, push
from finepoint.errors import CloudError, JobError
from finepoint.files import digest_of, sha256_of

_ESTIMATE_HOURS = 1.0
_ENDED = ("Completed", "Failed", "Stopped")


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
    """
    kind = settings.inference_instance_type
    say(refuse_above("Each hour of the batch transform", kind, _ESTIMATE_HOURS, 1, settings.max_price))
    files = files_of(images)
    digest = digest_of({name: sha256_of(path) for name, path in files.items()})
    package_digest = sha256_of(package)
    name = "finepoint-" + hashlib.sha256(f"{digest} {package_digest} {time.time_ns()}".encode()).hexdigest()[:16]
    source, answers = settings.uri("transforms", digest[:32]), settings.uri("transforms", name)
    push(cloud, files, source, kms_key=settings.kms_key)
    url = settings.uri("models", package_digest[:32])
    push(cloud, {"model.tar.gz": package}, url, kms_key=settings.kms_key)
    ledger, tags = Ledger(name), tags_of(name, settings)
    image = image_for("inference", cloud.region, kind, settings.inference_image)
    ledger.record("model", name, cloud.region)
    container = {"Image": image, "ModelDataUrl": f"{url}/model.tar.gz"}
    cloud.call(
        "sagemaker",
        "CreateModel",
        ModelName=name,
        PrimaryContainer=container,
        ExecutionRoleArn=settings.role,
        Tags=tags,
    )
    ledger.record("transform-job", name, cloud.region, kind)
    data = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": source + "/"}}
    output: dict[str, Any] = {"S3OutputPath": answers, "Accept": "application/json"}
    try:
        cloud.call(
            "sagemaker",
            "CreateTransformJob",
            TransformJobName=name,
            ModelName=name,
            TransformInput={"DataSource": data, "ContentType": content_type},
            TransformOutput=output,
            TransformResources={"InstanceType": kind, "InstanceCount": 1},
            Tags=tags,
        )
    except CloudError as error:
        if not is_taken(error):
            raise
    described = _wait(cloud, name, settings, say, sleep)
    ledger.strike("transform-job", name)
    delete(cloud, "model", name)
    ledger.strike("model", name)
    if described["TransformJobStatus"] != "Completed":
        raise JobError(
            f"batch transform {name} is {described['TransformJobStatus']}. {described.get('FailureReason', '')}"
        )
    return pull(cloud, answers, target).files


def _wait(
    cloud: Cloud,
    name: str,
    settings: SageMakerSettings,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> dict[str, Any]:
    say(f"Batch transform {name} is submitted")
    while True:
        try:
            described = cloud.call("sagemaker", "DescribeTransformJob", TransformJobName=name)
        except CloudError as error:
            if not is_missing(error):
                raise
        else:
            if described["TransformJobStatus"] in _ENDED:
                return described
        sleep(settings.poll_seconds)
