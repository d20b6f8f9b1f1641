"""`s3://` addresses, wherever a folder of images, an archive or a recording is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from tests.data.test_extracting import tar_bytes

from finepoint.data.fetching import fetch, local_data
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording
from finepoint.debugger.trial import create_trial
from finepoint.debugger.writing import RecordingWriter
from finepoint.engines.channels import on_this_machine
from finepoint.engines.checkpoints import KeptCheckpoints
from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.sagemaker import store
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.store import S3Store
from finepoint.engines.sagemaker.transfer import files_of, push
from finepoint.engines.spec import Channel, JobSpec
from finepoint.errors import CloudError, ConfigurationError, DataError, NotFoundError

URI = "s3://photos/sets/colours"


def read(rehearsal: Rehearsal) -> int:
    return sum(operation == "GetObject" for _, operation in rehearsal.faults.calls)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINEPOINT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("train/a/1.png", "train/b/2.png", "valid/a/3.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(name.encode())
    return tmp_path / "set"


def test_a_folder_in_s3_is_what_lies_there_now(cloud: Cloud, rehearsal: Rehearsal, images: Path) -> None:
    push(cloud, files_of(images), URI)
    first = local_data(URI)
    assert sorted(files_of(first)) == sorted(files_of(images))
    before = read(rehearsal)
    assert local_data(URI) == first
    assert read(rehearsal) - before == 1  # the manifest
    (images / "train/a/1.png").write_bytes(b"another")
    push(cloud, files_of(images), URI)
    boto3.client("s3").delete_object(Bucket="photos", Key="sets/colours/train/b/2.png")
    local_data(URI)
    assert {name: path.read_bytes() for name, path in files_of(first).items()} == {
        "train/a/1.png": b"another",
        "valid/a/3.png": b"valid/a/3.png",
    }


def test_what_was_not_pushed_by_us_is_not_fetched_twice(cloud: Cloud, rehearsal: Rehearsal, tmp_path: Path) -> None:
    for number in range(3):
        boto3.client("s3").put_object(Bucket="photos", Key=f"sets/colours/train/a/{number}.png", Body=b"x")
    assert fetch(URI, tmp_path / "out").images == 3
    before = read(rehearsal)
    (tmp_path / "out/train/a/1.png").write_bytes(b"y")
    (tmp_path / "out/train/a/own.png").write_bytes(b"mine")
    assert fetch(URI, tmp_path / "out").images == 4  # a folder of the user's keeps what is his
    assert read(rehearsal) - before == 2  # the changed file, and the manifest that there is not
    with pytest.raises(ConfigurationError, match="holds something else"):
        fetch("s3://photos/other", tmp_path / "out")


class Breaking:
    """A body that breaks off after some bytes."""

    def __init__(self, body: Any, size: int) -> None:
        self._content = body.read()[:size]

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        yield self._content
        raise ReadTimeoutError(endpoint_url="here")


def breaking(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> list[str]:
    """Let the next answers break off after so many bytes; return the list that asked ranges are added to."""
    ranges: list[str] = []
    call = Cloud.call

    def broken(self: Cloud, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        answer = call(self, service, operation, **parameters)
        if operation == "GetObject":
            ranges.append(parameters.get("Range", ""))
            if sizes:
                answer["Body"] = Breaking(answer["Body"], sizes.pop(0))
        return answer

    monkeypatch.setattr(Cloud, "call", broken)
    return ranges


def test_an_archive_in_s3_goes_on_where_it_broke_off(
    rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tar_bytes({"set/train/a/1.png": b"one", "set/train/b/2.png": b"two"}, "w:gz")
    boto3.client("s3").put_object(Bucket="photos", Key="sets/all.tar.gz", Body=packed)
    ranges = breaking(monkeypatch, [50, 30])
    found = fetch("s3://photos/sets/all.tar.gz", tmp_path / "out")
    assert ranges == ["", "bytes=50-", "bytes=80-"]
    assert (found.bytes, found.images, found.root) == (len(packed), 2, str(tmp_path / "out" / "set"))
    assert sorted(path.name for path in tmp_path.iterdir() if "download" in path.name) == []


def test_an_object_that_changed_meanwhile_is_fetched_anew(
    rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3.client("s3").put_object(Bucket="photos", Key="sets/a.bin", Body=b"first " * 100)
    breaking(monkeypatch, [50] + [0] * (store._ATTEMPTS - 1))
    with pytest.raises(DataError, match="breaks off at 50 bytes"):
        S3Store().file("s3://photos/sets/a.bin", tmp_path / "a.bin")
    boto3.client("s3").put_object(Bucket="photos", Key="sets/a.bin", Body=b"second " * 100)
    S3Store().file("s3://photos/sets/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"second " * 100


def channel_of(address: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "train.py").touch()
    script = {"entry_point": "train.py", "source_dir": str(tmp_path / "train.py")}
    spec = on_this_machine(JobSpec("job", **script, channels={"train": Channel(address)}), tmp_path / "links", print)
    root = spec.channels["train"].path
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def put(**objects: str) -> None:
    for key, content in objects.items():
        boto3.client("s3").put_object(Bucket="photos", Key=key, Body=content.encode())


def test_a_channel_is_every_object_whose_key_begins_so_as_in_aws(rehearsal: Rehearsal, tmp_path: Path) -> None:
    put(**{"set/data.csv": "one", "set/data/a/1.png": "two", "set/data2/3.png": "three", "set/else.txt": "four"})
    assert channel_of("s3://photos/set/data.csv", tmp_path) == {"data.csv": "one"}
    assert channel_of("s3://photos/set/data/", tmp_path) == {"a/1.png": "two"}
    whole = {"data.csv": "one", "a/1.png": "two", "data2/3.png": "three"}
    assert channel_of("s3://photos/set/data", tmp_path) == whole
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://photos/set/data"}
    assert {name for name, _, _ in rehearsal.platform.objects.channel(source)} == set(whole)
    boto3.client("s3").delete_object(Bucket="photos", Key="set/data2/3.png")
    put(**{"set/data.csv": "other"})
    assert channel_of("s3://photos/set/data", tmp_path) == {"data.csv": "other", "a/1.png": "two"}


def test_objects_that_would_have_one_name_in_a_channel_are_refused(rehearsal: Rehearsal, tmp_path: Path) -> None:
    put(**{"set/data/data": "one", "set/data": "two"})
    with pytest.raises(DataError, match="which are data in a channel"):
        channel_of("s3://photos/set/data", tmp_path)
    put(**{"set/x": "one", "set/x/y": "two"})
    with pytest.raises(DataError, match="no folder can hold"):
        channel_of("s3://photos/set/", tmp_path)


def test_what_was_pushed_is_a_channel_without_the_manifest_of_the_push(
    cloud: Cloud, images: Path, tmp_path: Path
) -> None:
    push(cloud, files_of(images), URI)
    assert set(channel_of(URI, tmp_path)) == set(files_of(images))
    put(**{"sets/colours/train/a/1.png": "changed by others"})
    assert channel_of(URI, tmp_path)["train/a/1.png"] == "changed by others"


def test_an_object_of_a_manifest_that_changed_is_fetched_again_and_others_are_not(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    put(**{"set/a.txt": "one", "set/b.txt": "two"})
    manifest = tmp_path / "x.manifest"
    manifest.write_text(json.dumps([{"prefix": "s3://photos/se"}, "t/a.txt", "t/b.txt"]))
    assert channel_of(str(manifest), tmp_path) == {"t/a.txt": "one", "t/b.txt": "two"}
    put(**{"set/a.txt": "six"})  # of the same size
    before = read(rehearsal)
    assert channel_of(str(manifest), tmp_path) == {"t/a.txt": "six", "t/b.txt": "two"}
    assert read(rehearsal) - before == 2  # the changed one, and the manifest of a push that there is not
    manifest.write_text(json.dumps([{"prefix": "s3://photos/set/"}, "a.txt", "c.txt"]))
    with pytest.raises(DataError, match=r"not there: s3://photos/set/c.txt \(1 in all\)"):
        channel_of(str(manifest), tmp_path)


def test_checkpoints_are_kept_in_s3(cloud: Cloud, rehearsal: Rehearsal, tmp_path: Path) -> None:
    written = tmp_path / "one" / "checkpoints" / "epoch" / "1.txt"
    written.parent.mkdir(parents=True)
    kept = KeptCheckpoints(tmp_path / "one", "s3://photos/kept", print)
    kept.bring()
    written.write_text("1")
    kept.end()
    before = len(rehearsal.faults.calls)
    kept.end()
    assert len(rehearsal.faults.calls) == before  # what is there is not sent again
    (tmp_path / "two" / "checkpoints").mkdir(parents=True)
    KeptCheckpoints(tmp_path / "two", "s3://photos/kept", print).bring()
    assert (tmp_path / "two" / "checkpoints" / "epoch" / "1.txt").read_text() == "1"


def test_what_is_not_there_is_told(rehearsal: Rehearsal, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no objects"):
        fetch("s3://photos/nix", tmp_path / "out")
    with pytest.raises(CloudError, match="NoSuchKey"):
        fetch("s3://photos/nix.zip", tmp_path / "out.zip")
    with pytest.raises(ConfigurationError, match="is a folder"):
        fetch("s3://photos/nix", tmp_path / "out", sha256="0" * 64)


def test_a_recording_in_s3_is_read_while_it_grows(
    rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finepoint.debugger.recording._SYNC_SECONDS", 0.0)
    address = "s3://photos/checkpoints/job/debug-output"
    with pytest.raises(NotFoundError, match="holds no recording"):
        create_trial(address)
    writer = RecordingWriter(tmp_path / "debug-output")
    s3 = boto3.client("s3")

    def record(step: int) -> None:
        writer.values(step, ModeKeys.TRAIN, {("loss", "value"): 1.0})
        writer.seal()
        for name, path in files_of(tmp_path / "debug-output").items():
            s3.upload_file(str(path), "photos", f"checkpoints/job/debug-output/{name}")

    record(0)
    trial = create_trial(address)
    assert trial.steps(mode=ModeKeys.TRAIN) == [0]
    before = read(rehearsal)
    record(1)
    trial.refresh()
    assert trial.steps(mode=ModeKeys.TRAIN) == [0, 1]
    assert read(rehearsal) - before == 1  # the new segment, and nothing again
    assert Recording.open(address).names() == ["loss"]
