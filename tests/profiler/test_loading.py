"""What of fetching a batch counts as decoding an image."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import fetch
from torchvision.transforms.functional import pil_to_tensor

from finepoint.profiler.loading import LOADING, LoadingRecorder
from finepoint.profiler.recording import total
from finepoint.profiler.segments import read_table


class Photographs(Dataset[object]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> object:
        with Image.open(self.path) as image:
            decoded = image.convert("RGB")
        decoded.convert("L")  # no decoding: an augmentation
        _spin(0.02)
        return pil_to_tensor(decoded)


def test_opening_decoding_and_the_first_conversion_are_decoding_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put_back_afterwards(monkeypatch)
    for owner, name in ((Image.Image, "convert"), (Image, "open")):  # each takes a hundredth of a second more
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, f=original, **kwargs: (_spin(0.01), f(*args, **kwargs))[1])
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    recorder = LoadingRecorder(tmp_path)
    recorder.install()
    recorder.watch_images()
    for _ in DataLoader(Photographs(tmp_path / "a.png"), batch_size=4):
        pass
    recorder.flush()
    rows = read_table(tmp_path / LOADING)
    assert (total(rows, "images"), total(rows, "items"), total(rows, "pixels")) == (8, 8, 8 * 1200)
    assert total(rows, "threads") == 2 * torch.get_num_threads()  # two batches
    decoding = total(rows, "decode_cpu") / 8
    assert 0.02 <= decoding < 0.03
    assert decoding <= total(rows, "cpu") / 8 - 0.03  # what an item takes beside: the second conversion, and spinning


def test_what_is_watched_can_still_be_sent_to_spawned_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put_back_afterwards(monkeypatch)
    original = Image.open
    LoadingRecorder(tmp_path).watch_images()
    assert Image.open is not original
    assert pickle.loads(pickle.dumps(Image.open)) is Image.open


def _put_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (
        (fetch._MapDatasetFetcher, "fetch"),
        (fetch._IterableDatasetFetcher, "fetch"),
        (ImageFile.ImageFile, "load"),
        (Image.Image, "convert"),
        (Image, "open"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards


def _spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
