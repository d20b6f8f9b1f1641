"""The session: which engine the cells run on, its bucket, and the addresses of data.

`Session()` is this machine. `Session(engine="sagemaker")`, or `FINEPOINT_ENGINE=sagemaker` in the environment, is AWS,
with the settings of `finepoint.toml`; the session that was made last is also that of cells which name none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from finepoint.engines.channels import MANIFEST
from finepoint.engines.sagemaker.cloud import Cloud, use_session
from finepoint.engines.sagemaker.settings import SageMakerSettings, load_settings
from finepoint.engines.sagemaker.transfer import files_of, push
from finepoint.engines.spec import Channel
from finepoint.errors import ConfigurationError
from finepoint.files import state_dir
from finepoint.notebook.arguments import take

BUCKET = "finepoint-local"
LOCAL, SAGEMAKER = "local", "sagemaker"
_SCHEME = f"s3://{BUCKET}"


class Session:
    """What the SDK asks of AWS: of this machine, or of AWS.

    Args:
        boto_session: in AWS: whose credentials, and region, are taken in this process.
        engine: `local` or `sagemaker`; by default what `FINEPOINT_ENGINE` says, or else `local`.
        named: in AWS: `default_bucket`, and settings of the engine over those of `finepoint.toml` (`role`, `bucket`,
            `region`, ...).

    Raises:
        ConfigurationError: other arguments of the SDK that would have an effect.

    >>> Session().default_bucket()
    'finepoint-local'
    """

    def __init__(self, boto_session: Any = None, *, engine: str | None = None, **named: Any) -> None:
        self.engine = engine or os.environ.get("FINEPOINT_ENGINE") or LOCAL
        if self.engine not in (LOCAL, SAGEMAKER):
            raise ConfigurationError(f"engine is {self.engine!r}; it must be {LOCAL} or {SAGEMAKER}")
        known = {field.name for field in fields(SageMakerSettings)}
        take("Session", {"boto_session": boto_session, **named}, in_cloud=self.in_cloud)
        named |= {"bucket": named.get("bucket") or named.get("default_bucket")}
        self._given = {name: value for name, value in named.items() if name in known and value is not None}
        if self.in_cloud:
            use_session(boto_session)
            if boto_session is not None and boto_session.region_name:
                self._given.setdefault("region", boto_session.region_name)
        self._cloud: Cloud | None = None
        _made[:] = [self]

    @property
    def in_cloud(self) -> bool:
        """Whether its cells run in AWS."""
        return self.engine == SAGEMAKER

    @property
    def cloud(self) -> Cloud:
        """The account; in AWS only."""
        if self._cloud is None:
            self._cloud = Cloud(self.settings().region)
        return self._cloud

    def settings(self, **over: Any) -> SageMakerSettings:
        """Return the SageMaker engine's settings: those of `finepoint.toml`, the session's, and `over` all others.

        Raises:
            ConfigurationError: role or bucket are missing, or values are wrong; all are listed.
        """
        return load_settings(**{**self._given, **{name: value for name, value in over.items() if value is not None}})

    @property
    def boto_region_name(self) -> str:
        """The region; `local` for this machine where none is set."""
        if self.in_cloud:
            return self.cloud.region
        return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "local"

    def default_bucket(self) -> str:
        """Return the name of the bucket; on this machine it is a folder."""
        return self.settings().bucket if self.in_cloud else BUCKET

    def upload_data(
        self,
        path: str,
        bucket: str | None = None,
        key_prefix: str = "data",
        callback: Any = None,
        extra_args: Mapping[str, Any] | None = None,
    ) -> str:
        """Make a file or folder found at `s3://BUCKET/KEY_PREFIX`: on this machine by a link, in AWS by an upload.

        Args:
            path: the file or folder.
            bucket: by default the session's.
            key_prefix: of what is uploaded.
            callback: is not called.
            extra_args: in AWS the key that encrypts: `{"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KEY}`.

        Raises:
            ConfigurationError: there is no such file, another bucket is meant, other data is there already, or other
                arguments of S3 are given.
            CloudError: AWS refused or failed.
        """
        source = Path(path).resolve()
        take("upload_data", {"callback": callback, "extra_args": extra_args}, in_cloud=self.in_cloud)
        if not source.exists():
            raise ConfigurationError(f"{path} does not exist")
        file = f"/{source.name}" if source.is_file() else ""
        if self.in_cloud:
            place = f"s3://{bucket or self.default_bucket()}/{key_prefix.strip('/')}"
            push(self.cloud, files_of(source), place, kms_key=_key_of(extra_args) or self.settings().kms_key)
            return place + file
        if bucket not in (None, BUCKET):
            raise ConfigurationError(f"bucket {bucket!r} is not on this machine; use session.default_bucket()")
        address = f"{_SCHEME}/{key_prefix.strip('/')}{file}"
        link = _place(address)
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise ConfigurationError(f"{address} holds other data already; give another key_prefix")
        link.symlink_to(source, target_is_directory=source.is_dir())
        return address


def _key_of(extra_args: Mapping[str, Any] | None) -> str:
    given = dict(extra_args or {})
    key = str(given.pop("SSEKMSKeyId", ""))
    if key and given.get("ServerSideEncryption") == "aws:kms":
        del given["ServerSideEncryption"]
    take("upload_data's extra_args", given, in_cloud=True)
    return key


_made: list[Session] = []


def session_of(given: Any) -> Session:
    """Return the session that a cell names, or else the last one that was made, or a new one.

    Raises:
        ConfigurationError: what is given is no session of this module's.
    """
    if given is not None and not isinstance(given, Session):
        raise ConfigurationError(f"sagemaker_session is {given!r}; make one by finepoint.notebook.Session()")
    return given or (_made[0] if _made else Session())


@dataclass(frozen=True)
class TrainingInput:
    """A channel's data, as `fit` takes it; arguments that are named nowhere else are refused unless they are None."""

    s3_data: str
    distribution: str | None = None
    compression: str | None = None
    content_type: str | None = None
    record_wrapping: str | None = None
    s3_data_type: str = "S3Prefix"
    instance_groups: Any = None
    input_mode: str | None = None
    attribute_names: Any = None
    target_attribute_name: str | None = None
    shuffle_config: Any = None

    def __post_init__(self) -> None:
        mistakes: list[str] = []
        names = ("content_type", "instance_groups", "attribute_names", "target_attribute_name", "shuffle_config")
        try:
            take("TrainingInput", {name: getattr(self, name) for name in names}, where="here")
        except ConfigurationError as error:
            mistakes += error.mistakes
        if self.distribution not in (None, "FullyReplicated"):
            mistakes.append(f"distribution {self.distribution!r}: every host sees all data")
        if self.compression not in (None, "None") or self.record_wrapping not in (None, "None"):
            mistakes.append("compression and record_wrapping are not supported")
        if self.s3_data_type not in ("S3Prefix", "ManifestFile"):
            mistakes.append(f"s3_data_type {self.s3_data_type!r} is not supported; give S3Prefix or ManifestFile")
        if self.s3_data_type == "ManifestFile" and not self.s3_data.endswith(MANIFEST):
            mistakes.append(f"{self.s3_data} is to be a manifest; its name must end in {MANIFEST}")
        if self.input_mode not in (None, "File", "FastFile", "Pipe"):
            mistakes.append(f"input_mode {self.input_mode!r} is unknown; give File, FastFile, or in AWS Pipe")
        if mistakes:
            raise ConfigurationError(mistakes)


def get_execution_role(sagemaker_session: Any = None, **named: Any) -> str:
    """Return the role of `finepoint.toml`; on this machine what stands for one, where none is needed."""
    take("get_execution_role", named, where="here")
    session = session_of(sagemaker_session)
    if session.in_cloud:
        return session.settings().role
    return "arn:aws:iam::000000000000:role/finepoint-local"


def local_path(address: str) -> str:
    """Return what an address means to an engine: a path, or an `s3://` address outside of this machine's bucket.

    >>> local_path("file:///data/train"), local_path("s3://photos/train")
    ('/data/train', 's3://photos/train')
    """
    if address == _SCHEME or address.startswith(f"{_SCHEME}/"):
        return str(_place(address))
    if address.startswith("s3://"):
        return address
    return str(Path(address.removeprefix("file://")).resolve())


def channels_of(inputs: Any, input_mode: str | None = None) -> dict[str, Channel]:
    """Return the channels that `fit` was given: an address, a `TrainingInput`, or either by name.

    Args:
        inputs: as `fit` takes them.
        input_mode: of those that name none.
    """
    if inputs is None:
        return {}
    given = inputs if isinstance(inputs, Mapping) else {"training": inputs}
    channels = {}
    for name, value in given.items():
        data = value if isinstance(value, TrainingInput) else TrainingInput(str(value))
        mode = data.input_mode or input_mode or "File"
        channels[name] = Channel(local_path(data.s3_data), mode)  # type: ignore[arg-type]
    return channels


def _place(address: str) -> Path:
    parts = [part for part in address.removeprefix(_SCHEME).split("/") if part]
    if ".." in parts:
        raise ConfigurationError(f"{address} leads outside of the bucket")
    return state_dir().resolve() / "buckets" / BUCKET / Path(*parts)
