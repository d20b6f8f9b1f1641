"""What the stand-in does with S3: inputs come from there, outputs, checkpoints and logs go there."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import ClientError

from finepoint.engines.channels import name_in_channel
from finepoint.engines.sagemaker.objects import split_s3

LOG_GROUP = "/aws/sagemaker/TrainingJobs"


class Objects:
    """The S3 and logs of the rehearsal, as the platform itself sees them."""

    def __init__(self, endpoint: str, region: str) -> None:
        keys = {"aws_access_key_id": "platform", "aws_secret_access_key": "platform"}  # nobody checks them
        session = boto3.session.Session(region_name=region, **keys)
        config = Config(retries={"mode": "standard", "max_attempts": 3}, s3={"addressing_style": "path"})
        self._s3 = session.client("s3", endpoint_url=endpoint, config=config)
        self._logs = session.client("logs", endpoint_url=endpoint, config=config)
        self._iam = session.client("iam", endpoint_url=endpoint, config=config)
        self._region, self._endpoint = region, endpoint

    def reset(self) -> None:
        """Forget everything that moto holds; it is one for the whole process."""
        httpx.post(f"{self._endpoint}/moto-api/reset", trust_env=False).raise_for_status()

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket that nobody else can read."""
        place = {} if self._region == "us-east-1" else {"LocationConstraint": self._region}
        self._s3.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": place} if place else {}))
        names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        self._s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(names, True))

    def make_role(self, name: str) -> str:
        """Make a role that SageMaker may assume, and return its ARN."""
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
        trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        answer = self._iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        return str(answer["Role"]["Arn"])

    def keys(self, uri: str) -> list[str]:
        """Return the keys that begin with an address's prefix; none where there is no such bucket."""
        bucket, prefix = split_s3(uri)
        try:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        except ClientError:
            return []

    def channel(self, source: Mapping[str, str]) -> list[tuple[str, str, str]]:
        """Return name, bucket and key of each object that an `S3DataSource` means."""
        uri = source["S3Uri"]
        if source["S3DataType"] == "ManifestFile":
            prefix, *names = json.loads(self.read(uri))
            return [(name, *split_s3(prefix["prefix"] + name)) for name in names]
        bucket, prefix = split_s3(uri)
        named = ((name_in_channel(prefix, key), key) for key in self.keys(uri))
        return [(name, bucket, key) for name, key in named if not name.endswith("/")]

    def download(self, source: Mapping[str, str], target: Path) -> None:
        """Put every object that an `S3DataSource` means into a folder, as a `File` channel has it."""
        for name, bucket, key in self.channel(source):
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._s3.download_file(bucket, key, str(path))

    def read(self, uri: str) -> bytes:
        """Return an object's bytes."""
        bucket, key = split_s3(uri)
        body: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def write(self, uri: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        """Write an object."""
        bucket, key = split_s3(uri)
        self._s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType=content_type)

    def upload_archive(self, folder: Path, uri: str) -> bool:
        """Pack a folder to an address as tar.gz, and return whether there was anything in it."""
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        if not entries:
            return False
        packed = folder.with_suffix(".tar.gz")
        with tarfile.open(packed, "w:gz", compresslevel=1) as archive:
            for entry in entries:
                archive.add(entry, entry.name)
        bucket, key = split_s3(uri)
        self._s3.upload_file(str(packed), bucket, key)
        return True

    def synchronise(self, folder: Path, uri: str, known: dict[str, tuple[float, int]]) -> None:
        """Upload the files of a folder that are new or changed since `known`, which is brought up to date."""
        bucket, prefix = split_s3(uri)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            try:
                state = (path.stat().st_mtime, path.stat().st_size)
                if path.is_file() and known.get(name) != state:
                    self._s3.upload_file(str(path), bucket, f"{prefix.rstrip('/')}/{name}")
                    known[name] = state
            except FileNotFoundError:
                continue  # renamed or removed while we looked

    def open_log(self, stream: str, group: str = LOG_GROUP) -> None:
        """Create a log stream."""
        for call, names in (
            (self._logs.create_log_group, {"logGroupName": group}),
            (self._logs.create_log_stream, {"logGroupName": group, "logStreamName": stream}),
        ):
            try:
                call(**names)
            except self._logs.exceptions.ResourceAlreadyExistsException:
                continue

    def log(self, stream: str, lines: Sequence[str], group: str = LOG_GROUP) -> None:
        """Append lines to a log stream."""
        now = int(time.time() * 1000)
        events = [{"timestamp": now, "message": line.rstrip("\n") or " "} for line in lines]
        if events:
            self._logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def inputs_of(request: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Yield name, input mode and `S3DataSource` of each channel of a training job."""
    mode = request["AlgorithmSpecification"]["TrainingInputMode"]
    for channel in request.get("InputDataConfig", ()):
        yield channel["ChannelName"], channel.get("InputMode", mode), channel["DataSource"]["S3DataSource"]
