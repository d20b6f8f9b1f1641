"""Checkpoints that are kept at an address: brought, sent while the job runs, and never half."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.engines.test_channels import Shelf
from tests.engines.test_local import log_of, script

from finepoint import stores
from finepoint.engines import checkpoints
from finepoint.engines.checkpoints import KeptCheckpoints
from finepoint.engines.local import Watcher, run_job
from finepoint.errors import CloudError, ConfigurationError, NothingThereError

ADDRESS = "shelf://kept/job"
# Counts on from what it finds, and waits until its first checkpoint has arrived.
SCRIPT = """
import os, pathlib, threading
folder = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"]) / "checkpoints"
last = int((folder / "last.txt").read_text()) if (folder / "last.txt").exists() else 0
print("from", last, flush=True)
(folder / "last.txt").write_text(str(last + 1))
while not os.path.exists(os.environ["ARRIVED"]):
    threading.Event().wait(0.02)
(folder / "more").mkdir(exist_ok=True)
(folder / "more" / "end.txt").write_text(str(last + 2))
"""


class Keeping(Shelf):
    """A shelf that may refuse, and says when something has come."""

    def __init__(self, arrived: Path) -> None:
        super().__init__({})
        self.arrived, self.refuses = arrived, False

    def folder(self, address: str, target: Path, **settings: object) -> int:
        if not super().folder(address, target, **settings):
            raise NothingThereError(f"{address} holds no objects")
        return 1

    def send(self, files: Mapping[str, Path], address: str) -> None:
        if self.refuses:
            self.arrived.touch()
            raise CloudError("s3 PutObject: slow down")
        super().send(files, address)
        self.arrived.touch()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeping:
    made = Keeping(tmp_path / "arrived")
    monkeypatch.setitem(stores._STORES, "shelf", lambda: made)
    monkeypatch.setattr(checkpoints, "_SECONDS", 0.05)
    monkeypatch.setenv("ARRIVED", str(made.arrived))
    return made


@pytest.mark.slow
def test_checkpoints_arrive_while_the_job_runs_and_another_machine_goes_on_from_them(
    tmp_path: Path, kept: Keeping
) -> None:
    spec = script(tmp_path, SCRIPT, checkpoint_location=ADDRESS)
    run_job(tmp_path / "here" / "job", spec)
    assert kept.content == {f"{ADDRESS}/last.txt": b"1", f"{ADDRESS}/more/end.txt": b"2"}
    run_job(tmp_path / "elsewhere" / "job", spec)
    assert log_of(tmp_path / "elsewhere" / "job") == "from 1\n"
    assert kept.content[f"{ADDRESS}/more/end.txt"] == b"3"


@pytest.mark.slow
def test_what_could_not_be_sent_is_told_and_sent_before_the_next_start(tmp_path: Path, kept: Keeping) -> None:
    kept.content[f"{ADDRESS}/last.txt"] = b"5"
    kept.refuses = True
    said: list[str] = []
    spec = script(tmp_path, SCRIPT, checkpoint_location=ADDRESS)
    assert run_job(tmp_path / "job", spec, Watcher(say=said.append)).status == "Completed"
    assert "not all checkpoints are at shelf://kept/job: s3 PutObject: slow down" in said[-1]
    assert sum("slow down" in line for line in said) == 2  # once while it ran, and at the end
    kept.refuses = False
    run_job(tmp_path / "job", spec)
    assert log_of(tmp_path / "job") == "from 5\nfrom 6\n"
    assert kept.content == {f"{ADDRESS}/last.txt": b"7", f"{ADDRESS}/more/end.txt": b"8"}


def test_a_file_that_is_being_written_is_left_until_it_is_whole(
    tmp_path: Path, kept: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job" / "checkpoints" / "a.txt"
    path.parent.mkdir(parents=True)
    looks, real = iter("abcdd"), KeptCheckpoints._files
    done = threading.Event()

    def written_on(self: KeptCheckpoints) -> dict[str, list[int]]:
        part = next(looks, "")
        if not part:
            done.set()
        elif part not in (path.read_text() if path.exists() else ""):
            with path.open("a") as file:
                file.write(part)
        return real(self)

    seen: list[bytes] = []
    monkeypatch.setattr(kept, "send", lambda files, address: seen.extend(one.read_bytes() for one in files.values()))
    monkeypatch.setattr(KeptCheckpoints, "_files", written_on)
    with KeptCheckpoints(tmp_path / "job", ADDRESS, print).sending():
        assert done.wait(30)
    assert seen == [b"abcd"]


def test_an_address_that_nobody_can_write_is_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="checkpoint_location gs://x cannot be written here"):
        run_job(tmp_path / "job", script(tmp_path, "", checkpoint_location="gs://x"))
