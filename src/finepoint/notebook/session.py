"""The session: a bucket that is a folder of this machine, and the addresses of data in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finepoint.engines.spec import Channel
from finepoint.errors import ConfigurationError
from finepoint.files import state_dir

BUCKET = "finepoint-local"
_SCHEME = f"s3://{BUCKET}"


class Session:
    """What the SDK asks of AWS: here, of this machine. Arguments are accepted and have no effect.

    >>> Session().default_bucket()
    'finepoint-local'
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.boto_region_name = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "local"

    def default_bucket(self) -> str:
        """Return the name of the bucket that is a folder of this machine."""
        return BUCKET

    def upload_data(
        self,
        path: str,
        bucket: str | None = None,
        key_prefix: str = "data",
        extra_args: Mapping[str, Any] | None = None,
    ) -> str:
        """Make a file or folder found at `s3://BUCKET/KEY_PREFIX`, by a link; nothing is copied.

        Raises:
            ConfigurationError: there is no such file, another bucket is meant, or other data is there already.
        """
        source = Path(path).resolve()
        if not source.exists():
            raise ConfigurationError(f"{path} does not exist")
        if bucket not in (None, BUCKET):
            raise ConfigurationError(f"bucket {bucket!r} is not on this machine; use session.default_bucket()")
        address = f"{_SCHEME}/{key_prefix.strip('/')}"
        if source.is_file():
            address = f"{address}/{source.name}"
        place = _place(address)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            raise ConfigurationError(f"{address} holds other data already; give another key_prefix")
        place.symlink_to(source, target_is_directory=source.is_dir())
        return address


@dataclass(frozen=True)
class TrainingInput:
    """A channel's data, as `fit` takes it."""

    s3_data: str
    distribution: str | None = None
    compression: str | None = None
    content_type: str | None = None
    record_wrapping: str | None = None
    s3_data_type: str = "S3Prefix"
    input_mode: str | None = None

    def __post_init__(self) -> None:
        mistakes = []
        if self.distribution not in (None, "FullyReplicated"):
            mistakes.append(f"distribution {self.distribution!r}: every host sees all data on this machine")
        if self.compression not in (None, "None") or self.record_wrapping not in (None, "None"):
            mistakes.append("compression and record_wrapping are not supported on this machine")
        if self.s3_data_type != "S3Prefix":
            mistakes.append(f"s3_data_type {self.s3_data_type!r} is not supported on this machine; give a folder")
        if self.input_mode not in (None, "File", "FastFile"):
            mistakes.append(f"input_mode {self.input_mode!r} is not supported on this machine; give File or FastFile")
        if mistakes:
            raise ConfigurationError(mistakes)


def get_execution_role(*arguments: Any, **named: Any) -> str:
    """Return what stands for a role on this machine, where none is needed."""
    return "arn:aws:iam::000000000000:role/finepoint-local"


def local_path(address: str) -> str:
    """Return the path that an address means: a path, `file://...`, or `s3://finepoint-local/...`.

    Raises:
        ConfigurationError: it is in another bucket.

    >>> local_path("file:///data/train")
    '/data/train'
    """
    if address == _SCHEME or address.startswith(f"{_SCHEME}/"):
        return str(_place(address))
    if address.startswith("s3://"):
        raise ConfigurationError(
            f"{address} is not on this machine; get it (`aws s3 cp --recursive`) and give its folder, or "
            "session.upload_data(FOLDER, key_prefix=...)"
        )
    return str(Path(address.removeprefix("file://")).resolve())


def channels_of(inputs: Any) -> dict[str, Channel]:
    """Return the channels that `fit` was given: an address, a `TrainingInput`, or either by name.

    Raises:
        ConfigurationError: addresses are not on this machine; all are listed.
    """
    if inputs is None:
        return {}
    given = inputs if isinstance(inputs, Mapping) else {"training": inputs}
    channels, mistakes = {}, []
    for name, value in given.items():
        data = value if isinstance(value, TrainingInput) else TrainingInput(str(value))
        try:
            mode = "FastFile" if data.input_mode == "FastFile" else "File"
            channels[name] = Channel(local_path(data.s3_data), mode)  # type: ignore[arg-type]
        except ConfigurationError as error:
            mistakes += [f"channel {name}: {mistake}" for mistake in error.mistakes]
    if mistakes:
        raise ConfigurationError(mistakes)
    return channels


def _place(address: str) -> Path:
    parts = [part for part in address.removeprefix(_SCHEME).split("/") if part]
    if ".." in parts:
        raise ConfigurationError(f"{address} leads outside of the bucket")
    return state_dir().resolve() / "buckets" / BUCKET / Path(*parts)
