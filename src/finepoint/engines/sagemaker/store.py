"""S3 as a store: what `s3://` addresses mean wherever a folder, an archive or a recording is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finepoint.data.extracting import free_bytes
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.objects import beginning, named, parse_s3, split_s3
from finepoint.engines.sagemaker.transfer import Progress, pull, refuse_public, send
from finepoint.errors import CloudError, DataError
from finepoint.files import read_json, write_json

# In a row that bring nothing.
_ATTEMPTS = 5
_CHUNK = 1 << 20
_CHANGED = ("PreconditionFailed", "InvalidRange", "412", "416")


class S3Store:
    """Reads and writes S3 by boto3's own credentials.

    Args:
        cloud: the account; by default the one that boto3 finds.
    """

    def __init__(self, cloud: Cloud | None = None) -> None:
        self._cloud = cloud
        self._private: set[str] = set()

    def file(self, address: str, target: Path, progress: Progress | None = None) -> None:
        """Bring one object to a file, going on where an earlier attempt, or process, broke off.

        Raises:
            DataError: it breaks off again and again, or does not fit on the disk.
            CloudError: it is not there, or AWS refused.
        """
        parse_s3(address)
        failures, before = 0, -1
        while not self._attempt(address, target, progress):
            have = target.stat().st_size if target.is_file() else 0
            failures = failures + 1 if have <= before else 1
            before = max(have, before)
            if failures >= _ATTEMPTS:
                raise DataError(
                    f"{address} breaks off at {have:,} bytes, {failures} times in a row; repeat the command"
                )
        _state(target).unlink(missing_ok=True)

    def folder(
        self,
        address: str,
        target: Path,
        *,
        exact: bool = False,
        sealed: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Bring what lies under an address into a folder; arguments and errors are those of `pull`."""
        return pull(self._account(), address, target, exact=exact, sealed=sealed, progress=progress).files

    def channel(self, address: str, target: Path) -> int:
        """Bring what SageMaker takes for a channel's address into a folder; errors are those of `pull`."""
        return pull(self._account(), address, target, exact=True, meaning=beginning).files

    def named(self, prefix: str, names: Sequence[str], target: Path) -> None:
        """Bring objects by their names after a prefix, only what changed; errors are those of `pull`."""
        pull(self._account(), prefix, target, meaning=lambda cloud, uri: named(cloud, uri, names))

    def send(self, files: Mapping[str, Path], address: str) -> None:
        """Put files below an address, by name.

        Raises:
            ConfigurationError: the bucket can be read by everybody.
            CloudError: AWS refused or failed.
        """
        bucket, prefix = parse_s3(address)
        if bucket not in self._private:
            refuse_public(self._account(), bucket)
            self._private.add(bucket)
        for name, path in files.items():
            send(self._account(), path, bucket, prefix + name)

    def _attempt(self, address: str, target: Path, progress: Progress | None) -> bool:
        """Ask for the rest of an object, and return whether all of it is there."""
        from botocore.exceptions import BotoCoreError

        bucket, key = split_s3(address)
        known: dict[str, Any] = read_json(_state(target)) if _state(target).is_file() else {}
        have: int = target.stat().st_size if known.get("address") == address and target.is_file() else 0
        # Of a whole file the last byte is asked for again: S3 then says whether it is still the same object.
        have = min(have, max(int(known.get("total", 1)) - 1, 0))
        rest: dict[str, Any] = {"Range": f"bytes={have}-", "IfMatch": known["etag"]} if have else {}
        try:
            answer = self._account().call("s3", "GetObject", Bucket=bucket, Key=key, **rest)
        except CloudError as error:
            if have and error.code in _CHANGED:
                target.unlink()  # another object has its name now
                return False
            raise
        total = have + int(answer["ContentLength"])
        if total - have > free_bytes(target.parent):
            raise DataError(f"{address} needs {total - have:,} bytes, which are not free in {target.parent}")
        write_json(_state(target), {"address": address, "etag": answer["ETag"], "total": total})
        with target.open("r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            try:
                for block in answer["Body"].iter_chunks(_CHUNK):
                    file.write(block)
                    have += len(block)
                    if progress is not None:
                        progress(have, total)
            except BotoCoreError:
                return False
        return have == total

    def _account(self) -> Cloud:
        if self._cloud is None:
            self._cloud = Cloud()
        return self._cloud


def _state(target: Path) -> Path:
    return target.with_name(target.name + ".json")
