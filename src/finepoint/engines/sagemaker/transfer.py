"""Folders to S3 and back: in parallel, only what changed, going on after an interruption."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from finepoint.engines.sagemaker.cloud import Cloud, is_missing
from finepoint.engines.sagemaker.ledger import Ledger
from finepoint.engines.sagemaker.objects import WORKERS, S3Object, below, parse_s3, split_s3
from finepoint.errors import CloudError, ConfigurationError, DataError, NothingThereError
from finepoint.files import atomic_path, digest_of, sha256_of, state_dir

# S3's parts are at least 5 MiB, and at most 10,000.
_PART = 16 * 2**20
_PUBLIC_GROUPS = ("AllUsers", "AuthenticatedUsers")
# The ledger of what is being uploaded in parts, on whatever's behalf.
UPLOADS = "uploads"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Transfer:
    """What a push or pull did, or would do.

    Args:
        files: in all.
        bytes: in all.
        moved: files that were, or have to be, transferred.
        moved_bytes: their size.
    """

    files: int
    bytes: int
    moved: int
    moved_bytes: int


@dataclass(frozen=True)
class _Sent:
    sha256: str
    bytes: int
    etag: str


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder, or the one file, by the name that each has in S3; hidden ones are left out.

    Raises:
        DataError: there are none.
    """
    if folder.is_file():
        return {folder.name: folder}
    found = {}
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                found[path.relative_to(folder).as_posix()] = path
    if not found:
        raise DataError(f"{folder} holds no files")
    return found


def push(
    cloud: Cloud,
    files: Mapping[str, Path],
    uri: str,
    *,
    kms_key: str = "",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Transfer:
    """Upload files to an address, leaving out those that lie there with the same content.

    Beside the address a manifest (`.PREFIX.manifest.json`) is kept: names, sizes, SHA-256, ETags. What an interrupted
    push had sent is known from a journal on this machine, and is compared with what S3 lists before it is believed.

    Args:
        cloud: the account.
        files: by their names under the address.
        uri: `s3://BUCKET/PREFIX`.
        kms_key: encrypts the objects; "" leaves that to the bucket.
        dry_run: only say what would be done.
        progress: is told bytes done and to do.

    Raises:
        ConfigurationError: the bucket can be read by everybody.
        CloudError: AWS refused or failed.
    """
    bucket, prefix = parse_s3(uri)
    refuse_public(cloud, bucket)
    with ThreadPoolExecutor(WORKERS) as pool:
        hashes = dict(zip(files, pool.map(sha256_of, files.values()), strict=True))
    sizes = {name: path.stat().st_size for name, path in files.items()}
    journal = _Journal("pushes", uri)
    known = {**read_manifest(cloud, uri), **journal.read()}
    there = {name: found.etag for name, found in below(cloud, uri).items()}
    wanted = [
        name
        for name in files
        if name not in known or known[name].sha256 != hashes[name] or there.get(name) != known[name].etag
    ]
    moved = sum(sizes[name] for name in wanted)
    result = Transfer(len(files), sum(sizes.values()), len(wanted), moved)
    if dry_run:
        return result

    def send_one(name: str) -> tuple[str, _Sent]:
        etag = send(cloud, files[name], bucket, prefix + name, hashes[name], kms_key)
        entry = _Sent(hashes[name], sizes[name], etag)
        journal.add(name, entry)
        return name, entry

    sent = {name: known[name] for name in files if name not in set(wanted)}
    for name, entry in _in_parallel(send_one, wanted):
        sent[name] = entry
        if progress is not None:
            progress(result.bytes - moved + sum(sent[one].bytes for one in wanted if one in sent), result.bytes)
    _write_manifest(cloud, uri, sent, kms_key)
    journal.remove()
    return result


def pull(
    cloud: Cloud,
    uri: str,
    target: Path,
    *,
    dry_run: bool = False,
    exact: bool = False,
    sealed: bool = False,
    meaning: Callable[[Cloud, str], Mapping[str, S3Object]] = below,
    progress: Progress | None = None,
) -> Transfer:
    """Download what an address means into a folder, leaving out files that are there with the same content.

    That a file is the same is known from the manifest, or from a journal of what was pulled to this folder.

    Args:
        cloud: the account.
        uri: `s3://BUCKET/PREFIX`.
        target: the folder.
        dry_run: only say what would be done.
        exact: remove from the folder what does not lie there any more; hidden files are left alone.
        sealed: what is there never changes, so that a file of the same size is the same.
        meaning: returns the objects by the names that they get; by default what lies below the address.
        progress: is told bytes done and to do.

    Raises:
        NothingThereError: there are no objects.
        DataError: a name leads outside the folder, or content is not what the manifest says.
        CloudError: AWS refused or failed.
    """
    there = meaning(cloud, uri)
    if not there:
        raise NothingThereError(f"{uri} holds no objects")
    for name in there:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise DataError(f"{uri}: the object {name!r} leads outside {target}")
    manifest = {} if sealed or not split_s3(uri)[1].strip("/") else read_manifest(cloud, uri)
    if meaning is not below:  # what others put there since is meant as it is
        manifest = {name: sent for name, sent in manifest.items() if name in there and there[name].etag == sent.etag}
    journal = _Journal("pulls", f"{uri} {target.resolve()}")
    pulled = {} if sealed else journal.read()

    def have(name: str) -> bool:
        path = target / name
        if not path.is_file() or path.stat().st_size != there[name].bytes:
            return False
        before = pulled.get(name)
        known = before if before is not None and before.etag == there[name].etag else manifest.get(name)
        return sealed or (known is not None and sha256_of(path) == known.sha256)

    with ThreadPoolExecutor(WORKERS) as pool:
        wanted = [name for name, same in zip(there, pool.map(have, there), strict=True) if not same]
    moved, size = (sum(there[name].bytes for name in names) for names in (wanted, there))
    result = Transfer(len(there), size, len(wanted), moved)
    if dry_run:
        return result
    done = size - moved

    def receive(name: str) -> tuple[str, None]:
        expected = manifest[name].sha256 if name in manifest else ""
        digest = fetch(cloud, there[name].uri, target / name, expected)
        if not sealed:
            journal.add(name, _Sent(digest, there[name].bytes, there[name].etag))
        return name, None

    for name, _ in _in_parallel(receive, wanted):
        done += there[name].bytes
        if progress is not None:
            progress(done, size)
    if exact:
        for path in [path for name, path in files_of(target).items() if name not in there]:
            path.unlink()
    return result


def fetch(cloud: Cloud, uri: str, target: Path, sha256: str = "") -> str:
    """Download one object to a file, atomically, and return its SHA-256.

    Raises:
        DataError: its content has not the given SHA-256, or broke off.
        CloudError: it is not there, or AWS failed.
    """
    from botocore.exceptions import BotoCoreError

    bucket, key = split_s3(uri)
    answer = cloud.call("s3", "GetObject", Bucket=bucket, Key=key)
    digest = hashlib.sha256()
    with atomic_path(target) as temporary:
        try:
            with temporary.open("wb") as file:
                for block in answer["Body"].iter_chunks(2**20):
                    file.write(block)
                    digest.update(block)
        except (BotoCoreError, OSError) as error:
            raise DataError(f"{uri} broke off ({error}); repeat the command, it goes on") from error
        if sha256 and digest.hexdigest() != sha256:
            raise DataError(f"{uri} is not what its manifest says (SHA-256); push it again")
    return digest.hexdigest()


def put(cloud: Cloud, uri: str, content: bytes, kms_key: str = "") -> None:
    """Upload the content of one object."""
    bucket, key = split_s3(uri)
    cloud.call("s3", "PutObject", Bucket=bucket, Key=key, Body=content, **encryption(kms_key))


def refuse_public(cloud: Cloud, bucket: str) -> None:
    """Check that a bucket cannot be read by everybody.

    Raises:
        ConfigurationError: it can.
    """
    block = _or_none(lambda: cloud.call("s3", "GetPublicAccessBlock", Bucket=bucket), "NoSuchPublicAccessBlock")
    settings = block.get("PublicAccessBlockConfiguration", {})
    if settings.get("RestrictPublicBuckets") and settings.get("IgnorePublicAcls"):
        return
    status = _or_none(lambda: cloud.call("s3", "GetBucketPolicyStatus", Bucket=bucket), "NoSuchBucketPolicy")
    acl = cloud.call("s3", "GetBucketAcl", Bucket=bucket)
    open_acl = any(str(grant["Grantee"].get("URI", "")).endswith(_PUBLIC_GROUPS) for grant in acl.get("Grants", ()))
    if status.get("PolicyStatus", {}).get("IsPublic") or open_acl:
        raise ConfigurationError(
            f"bucket {bucket} is public; block that first: aws s3api put-public-access-block --bucket {bucket} "
            "--public-access-block-configuration BlockPublicAcls=true,IgnorePublicAcls=true,"
            "BlockPublicPolicy=true,RestrictPublicBuckets=true"
        )


def read_manifest(cloud: Cloud, uri: str) -> dict[str, _Sent]:
    """Return what the manifest beside an address lists; nothing where there is none."""
    bucket, prefix = parse_s3(uri)
    try:
        answer = cloud.call("s3", "GetObject", Bucket=bucket, Key=_manifest_key(prefix))
    except CloudError as error:
        if is_missing(error):
            return {}
        raise
    try:
        value = json.loads(answer["Body"].read())
        return {name: _Sent(**entry) for name, entry in value["files"].items()}
    except (ValueError, KeyError, TypeError):
        return {}  # damaged: everything is compared anew


def _write_manifest(cloud: Cloud, uri: str, sent: Mapping[str, _Sent], kms_key: str) -> None:
    bucket, prefix = parse_s3(uri)
    files = {name: vars(entry) for name, entry in sorted(sent.items())}
    body = json.dumps({"schema_version": 1, "files": files}).encode()
    cloud.call("s3", "PutObject", Bucket=bucket, Key=_manifest_key(prefix), Body=body, **encryption(kms_key))


def _manifest_key(prefix: str) -> str:
    """Return its key, which does not begin with the prefix: whoever reads all that does would find it too."""
    folder, _, name = prefix.rstrip("/").rpartition("/")
    return f"{folder}/.{name}.manifest.json".lstrip("/")


def encryption(kms_key: str) -> dict[str, str]:
    """Return the arguments by which S3 encrypts an object with a key."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}


def send(cloud: Cloud, path: Path, bucket: str, key: str, sha256: str = "", kms_key: str = "") -> str:
    """Upload one file, large ones in parts, and return its ETag; S3 refuses what has not the given SHA-256."""
    if path.stat().st_size > _PART:
        return _send_parts(cloud, path, bucket, key, kms_key)
    content = path.read_bytes()
    checksum = base64.b64encode(bytes.fromhex(sha256) if sha256 else hashlib.sha256(content).digest()).decode()
    answer = cloud.call(
        "s3",
        "PutObject",
        Bucket=bucket,
        Key=key,
        Body=content,
        ChecksumSHA256=checksum,
        **encryption(kms_key),
    )
    return str(answer["ETag"])


def _send_parts(cloud: Cloud, path: Path, bucket: str, key: str, kms_key: str) -> str:
    """Upload a large file in parts; those that an earlier try has sent are compared and kept.

    Parts that are never completed cost storage and show in no listing of objects: the upload is written down before.
    """
    ledger, address = Ledger(UPLOADS), f"s3://{bucket}/{key}"
    ledger.record("upload", address, cloud.region)
    upload, there = _unfinished(cloud, bucket, key)
    if not upload:
        begun = cloud.call("s3", "CreateMultipartUpload", Bucket=bucket, Key=key, **encryption(kms_key))
        upload = str(begun["UploadId"])
    size = path.stat().st_size
    part_size = max(_PART, -(-size // 10_000))
    parts = []
    with path.open("rb") as file:
        for number in range(1, -(-size // part_size) + 1):
            block = file.read(part_size)
            etag = there.get(number, "")
            if etag.strip('"') != hashlib.md5(block, usedforsecurity=False).hexdigest():
                answer = cloud.call(
                    "s3", "UploadPart", Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=block
                )
                etag = str(answer["ETag"])
            parts.append({"PartNumber": number, "ETag": etag})
    answer = cloud.call(
        "s3",
        "CompleteMultipartUpload",
        Bucket=bucket,
        Key=key,
        UploadId=upload,
        MultipartUpload={"Parts": parts},
    )
    ledger.strike("upload", address)
    return str(answer["ETag"])


def abandon_upload(cloud: Cloud, address: str) -> bool:
    """Remove the parts of unfinished uploads of an object, and return whether there were any."""
    bucket, key = split_s3(address)
    found = False
    while (upload := _unfinished(cloud, bucket, key)[0]) != "":
        cloud.call("s3", "AbortMultipartUpload", Bucket=bucket, Key=key, UploadId=upload)
        found = True
    return found


def _unfinished(cloud: Cloud, bucket: str, key: str) -> tuple[str, dict[int, str]]:
    for entry in cloud.call("s3", "ListMultipartUploads", Bucket=bucket, Prefix=key).get("Uploads", ()):
        if entry["Key"] == key:
            upload = str(entry["UploadId"])
            pages = cloud.pages("s3", "ListParts", Bucket=bucket, Key=key, UploadId=upload)
            return upload, {part["PartNumber"]: part["ETag"] for page in pages for part in page.get("Parts", ())}
    return "", {}


def _in_parallel(work: Callable[[str], Any], names: list[str]) -> Iterator[Any]:
    """Yield what `work` returns for each name as it comes; the first error ends the rest."""
    pool = ThreadPoolExecutor(WORKERS)
    futures = [pool.submit(work, name) for name in names]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _or_none(call: Callable[[], dict[str, Any]], code: str) -> dict[str, Any]:
    try:
        return call()
    except CloudError as error:
        if error.code.startswith(code):
            return {}
        raise


class _Journal:
    """What a push has sent, or a pull has brought, so far: a JSON object a line."""

    def __init__(self, kind: str, uri: str) -> None:
        self._path = state_dir() / kind / f"{digest_of({'uri': uri})[:24]}.jsonl"
        self._lock = threading.Lock()

    def read(self) -> dict[str, _Sent]:
        if not self._path.is_file():
            return {}
        found = {}
        for line in self._path.read_text().splitlines():
            try:
                value = json.loads(line)
                name = value.pop("name")
                found[name] = _Sent(**value)
            except (ValueError, TypeError, KeyError):
                continue  # the last line of what was killed
        return found

    def add(self, name: str, entry: _Sent) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps({"name": name, **vars(entry)}) + "\n")

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
