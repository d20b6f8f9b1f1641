"""What objects an address in S3 means: as a folder, as SageMaker's `S3Prefix`, or in a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from finepoint.engines.channels import name_in_channel
from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.errors import CloudError, ConfigurationError, DataError

# Requests that are under way at once; S3 answers them independently, and each costs a round trip.
WORKERS = 16


@dataclass(frozen=True)
class S3Object:
    """An object as S3 lists it.

    Args:
        bucket: that holds it.
        key: of it.
        bytes: its size.
        etag: changes with its content.
    """

    bucket: str
    key: str
    bytes: int
    etag: str

    @property
    def uri(self) -> str:
        """Its address."""
        return f"s3://{self.bucket}/{self.key}"


def parse_s3(uri: str) -> tuple[str, str]:
    """Return bucket and key prefix (ending in `/`) of `s3://BUCKET/PREFIX`.

    Raises:
        ConfigurationError: it is no such address.

    >>> parse_s3("s3://photos/breeds")
    ('photos', 'breeds/')
    """
    bucket, prefix = split_s3(uri)
    if not uri.startswith("s3://") or not bucket or not prefix.strip("/"):
        raise ConfigurationError(f"{uri!r} is not an address of the form s3://BUCKET/PREFIX")
    return bucket, prefix.strip("/") + "/"


def split_s3(uri: str) -> tuple[str, str]:
    """Return bucket and key of an object's address; the key may be empty.

    >>> split_s3("s3://photos/breeds/1.jpg")
    ('photos', 'breeds/1.jpg')
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def below(cloud: Cloud, uri: str) -> dict[str, S3Object]:
    """Return the objects below an address, as of a folder, by their names there.

    Raises:
        ConfigurationError: it is no address of the form `s3://BUCKET/PREFIX`.
    """
    bucket, prefix = parse_s3(uri)
    return {found.key[len(prefix) :]: found for found in _listed(cloud, bucket, prefix)}


def beginning(cloud: Cloud, uri: str) -> dict[str, S3Object]:
    """Return what SageMaker's `S3Prefix` takes: every object whose key begins so, by its name in the channel.

    Raises:
        DataError: two of them cannot lie in one folder.
    """
    bucket, prefix = split_s3(uri)
    found: dict[str, S3Object] = {}
    for entry in _listed(cloud, bucket, prefix):
        name = name_in_channel(prefix, entry.key)
        if name in found:
            raise DataError(f"{uri} means both {found[name].uri} and {entry.uri}, which are {name} in a channel")
        found[name] = entry
    folders = {name[:place] for name in found for place in range(len(name)) if name[place] == "/"}
    if folders & set(found):
        name = min(folders & set(found))
        raise DataError(f"{uri} means {found[name].uri} and objects below that name, which no folder can hold")
    return found


def named(cloud: Cloud, prefix: str, names: Sequence[str]) -> dict[str, S3Object]:
    """Return the objects whose addresses are a prefix and each of some names, by these.

    Raises:
        DataError: some are not there.
    """

    def ask(name: str) -> S3Object | None:
        bucket, key = split_s3(prefix + name)
        try:
            answer = cloud.call("s3", "HeadObject", Bucket=bucket, Key=key)
        except CloudError as error:
            if is_missing(error):
                return None
            raise
        return S3Object(bucket, key, int(answer["ContentLength"]), str(answer["ETag"]))

    with ThreadPoolExecutor(WORKERS) as pool:
        found = dict(zip(names, pool.map(ask, names), strict=True))
    missing = [prefix + name for name, entry in found.items() if entry is None]
    if missing:
        raise DataError(f"a manifest names what is not there: {', '.join(missing[:3])} ({len(missing)} in all)")
    return {name: entry for name, entry in found.items() if entry is not None}


def _listed(cloud: Cloud, bucket: str, prefix: str) -> Iterator[S3Object]:
    for page in cloud.pages("s3", "ListObjectsV2", Bucket=bucket, Prefix=prefix):
        entries: Mapping[str, Any] = page
        for entry in entries.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # what consoles make for a folder
                yield S3Object(bucket, entry["Key"], int(entry["Size"]), str(entry["ETag"]))
