from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from finepoint.engines.rehearsal.faults import Fault
from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.sagemaker import transfer
from finepoint.engines.sagemaker.cleanup import cleanup
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.transfer import files_of, pull, push
from finepoint.errors import CloudError, ConfigurationError, DataError

URI = "s3://photos/breeds"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train/a/1.txt", "train/b & <c>/ü.txt", "valid/a/2.txt"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "data"


def sent(rehearsal: Rehearsal) -> int:
    return sum(operation in ("PutObject", "UploadPart") for _, operation in rehearsal.faults.calls)


def test_what_was_pushed_comes_back_the_same(cloud: Cloud, folder: Path, tmp_path: Path) -> None:
    assert push(cloud, files_of(folder), URI).moved == 3
    assert pull(cloud, URI, tmp_path / "back").moved == 3
    for name, path in files_of(folder).items():
        assert (tmp_path / "back" / name).read_bytes() == path.read_bytes()
    assert pull(cloud, URI, tmp_path / "back").moved == 0


def test_only_what_changed_is_sent(cloud: Cloud, rehearsal: Rehearsal, folder: Path) -> None:
    push(cloud, files_of(folder), URI)
    assert push(cloud, files_of(folder), URI).moved == 0
    (folder / "train/a/1.txt").write_text("another")
    assert push(cloud, files_of(folder), URI, dry_run=True).moved == 1
    assert push(cloud, files_of(folder), URI).moved == 1


def test_what_was_changed_in_s3_is_sent_again(cloud: Cloud, rehearsal: Rehearsal, folder: Path) -> None:
    push(cloud, files_of(folder), URI)
    boto3.client("s3").put_object(Bucket="photos", Key="breeds/train/a/1.txt", Body=b"spoilt")
    boto3.client("s3").delete_object(Bucket="photos", Key="breeds/valid/a/2.txt")
    assert push(cloud, files_of(folder), URI).moved == 2


def test_a_dry_run_sends_nothing(cloud: Cloud, rehearsal: Rehearsal, folder: Path) -> None:
    assert push(cloud, files_of(folder), URI, dry_run=True).moved == 3
    assert sent(rehearsal) == 0


def test_an_interrupted_push_goes_on_where_it_ended(
    cloud: Cloud, rehearsal: Rehearsal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WORKERS", 1)
    rehearsal.faults.add(Fault("PutObject", "expired", times=9, after=2))
    with pytest.raises(CloudError, match="log in again"):
        push(cloud, files_of(folder), URI)
    rehearsal.faults.clear()
    assert push(cloud, files_of(folder), URI).moved == 1


def test_half_uploaded_parts_are_kept(
    cloud: Cloud, rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PART", 5 * 2**20)
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(range(256)) * (11 * 2**12))  # 11 MiB: three parts
    rehearsal.faults.add(Fault("UploadPart", "expired", times=9, after=2))
    with pytest.raises(CloudError):
        push(cloud, {"large.bin": large}, URI)
    rehearsal.faults.clear()
    before = sent(rehearsal)
    push(cloud, {"large.bin": large}, URI)
    assert sent(rehearsal) - before == 2  # the third part, and the manifest
    pull(cloud, URI, tmp_path / "back")
    assert (tmp_path / "back" / "large.bin").read_bytes() == large.read_bytes()
    assert boto3.client("s3").list_multipart_uploads(Bucket="photos").get("Uploads") is None


def test_parts_that_nobody_comes_back_for_are_removed_by_cleanup(
    cloud: Cloud, rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PART", 5 * 2**20)
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(6 * 2**20))
    rehearsal.faults.add(Fault("UploadPart", "expired", times=9, after=1))
    with pytest.raises(CloudError):
        push(cloud, {"large.bin": large}, URI)
    rehearsal.faults.clear()
    assert len(boto3.client("s3").list_multipart_uploads(Bucket="photos")["Uploads"]) == 1
    (removed,) = cleanup("uploads", lambda region: cloud)
    assert (removed.was_there, removed.resource.name) == (True, f"{URI}/large.bin")
    assert boto3.client("s3").list_multipart_uploads(Bucket="photos").get("Uploads") is None


@pytest.mark.parametrize("kind", ["throttle", "error", "timeout", "cut"])
def test_a_fault_that_passes_is_not_seen(cloud: Cloud, rehearsal: Rehearsal, folder: Path, kind: str) -> None:
    rehearsal.faults.add(Fault("PutObject", kind, times=2))  # type: ignore[arg-type]
    rehearsal.faults.add(Fault("ListObjectsV2", kind))  # type: ignore[arg-type]
    assert push(cloud, files_of(folder), URI).moved == 3


def test_a_public_bucket_is_refused(cloud: Cloud, rehearsal: Rehearsal, folder: Path) -> None:
    s3 = boto3.client("s3")
    s3.delete_public_access_block(Bucket="photos")
    push(cloud, files_of(folder), URI)
    s3.put_bucket_acl(Bucket="photos", ACL="public-read")
    with pytest.raises(ConfigurationError, match="put-public-access-block"):
        push(cloud, files_of(folder), URI)


def test_a_changed_object_does_not_pass_for_what_was_pushed(cloud: Cloud, folder: Path, tmp_path: Path) -> None:
    push(cloud, files_of(folder), URI)
    boto3.client("s3").put_object(Bucket="photos", Key="breeds/train/a/1.txt", Body=b"spoilt, longer")
    with pytest.raises(DataError, match="not what its manifest says"):
        pull(cloud, URI, tmp_path / "back")
    assert not (tmp_path / "back/train/a/1.txt").exists()


def test_an_object_that_leads_outside_is_refused(cloud: Cloud, rehearsal: Rehearsal, tmp_path: Path) -> None:
    boto3.client("s3").put_object(Bucket="photos", Key="breeds/a/../../../evil", Body=b"x")
    with pytest.raises(DataError, match="leads outside"):
        pull(cloud, URI, tmp_path / "back")


@pytest.mark.parametrize("uri", ["photos/breeds", "s3://photos", "s3://photos/", "https://photos/breeds"])
def test_an_address_that_is_none_is_refused(cloud: Cloud, folder: Path, uri: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://BUCKET/PREFIX"):
        push(cloud, files_of(folder), uri)


def test_a_missing_bucket_is_told(cloud: Cloud, folder: Path) -> None:
    with pytest.raises(CloudError, match="NoSuchBucket"):
        push(cloud, files_of(folder), "s3://nobodys-bucket/x")
