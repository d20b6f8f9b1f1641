"""What of fetching a batch counts as decoding an image."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.data._utils import fetch
from torchvision.transforms.functional import pil_to_tensor

from finepoint.profiler.loading import LOADING, Loaders, LoadingRecorder
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


def test_loaders_that_are_alike_are_one_and_one_at_the_place_of_another_that_is_gone_is_not_that() -> None:
    data, loaders = TensorDataset(torch.rand(64, 3)), Loaders()
    assert [loaders.number(DataLoader(data, size)) for size in (16, 8, 16, 4, 8)] == [0, 1, 0, 2, 1]
    kept = [DataLoader(data, 16), DataLoader(data, 16, num_workers=1)]
    assert [loaders.number(loader) for loader in (*kept, *kept)] == [0, 3, 0, 3]
    assert [facts["batch_size"] for facts in loaders.facts] == [16, 8, 4, 16]


def test_what_is_new_of_loaders_is_how_they_were_made_and_their_first_batch() -> None:
    loader, loaders = DataLoader(TensorDataset(torch.rand(64, 3)), 16), Loaders()
    told = []
    for tensor in (None, torch.rand(16, 3), torch.rand(8, 3)):
        loaders.number(loader)
        loaders.got_batch(loader, tensor)
        told.append(loaders.news)
        loaders.news = False
    assert told == [True, True, False]
    assert (loaders.facts[0]["shape"], loaders.facts[0]["dtype"]) == ([16, 3], "float32")


def test_a_loader_whose_length_nobody_knows_is_known_too() -> None:
    class Endless(Dataset[int]):
        def __len__(self) -> int:
            raise NotImplementedError

        def __getitem__(self, index: int) -> int:
            return index

    loaders = Loaders()
    assert loaders.number(DataLoader(Endless(), sampler=[0, 1], batch_sampler=None)) == 0
    assert loaders.number(DataLoader(Endless(), shuffle=False)) == 1
    assert [facts["batches"] for facts in loaders.facts] == [2, None]


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
