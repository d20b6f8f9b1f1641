"""A loader's batches are told of, or noted, and its iterator is its own."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from finepoint.batches import BATCH, LOADER_BEGIN, LOADER_END, batch_times


class Numbers(Dataset[int]):
    """One, two, three, ..."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index + 1


def test_a_loaders_batches_are_told_and_its_iterator_is_its_own() -> None:
    told: list[Any] = []
    loader = DataLoader(Numbers(3), batch_size=2)
    watching = [
        LOADER_BEGIN.subscribe(lambda loader: told.append("begin")),
        BATCH.subscribe(lambda loader, batch, waited: told.append((batch.tolist(), waited >= 0))),
        LOADER_END.subscribe(lambda loader, exhausted, waited: told.append(exhausted)),
    ]
    assert len(iter(loader)) == 2
    for _ in loader:
        pass
    for subscription in watching:
        subscription.close()
    assert told == ["begin", False, "begin", ([1, 2], True), ([3], True), True]
    assert type(iter(loader)).__name__ == "_SingleProcessDataLoaderIter"


def test_an_iterator_that_is_watched_passes_for_the_loaders_own() -> None:
    watching = LOADER_BEGIN.subscribe(lambda loader: None)
    batches = iter(DataLoader(Numbers(3)))
    watching.close()
    assert isinstance(batches, _BaseDataLoaderIter)
    batches.mark = 3
    assert batches._batches.mark == 3
    for way in (copy.copy, pickle.dumps):
        with pytest.raises(NotImplementedError):  # as torch says it
            way(batches)


@pytest.mark.parametrize("told", [True, False])
def test_batches_are_noted_until_it_is_time_and_told_to_others_all_the_while(
    monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def load(numbers: list[int]) -> list[int]:
        nonlocal now
        now += 0.02
        return numbers

    seen: list[Any] = []
    watching = BATCH.subscribe(lambda loader, batch, waited: seen.append(batch)) if told else None
    keeping = LOADER_BEGIN.subscribe(lambda loader: None)
    loader, noted = DataLoader(Numbers(4), collate_fn=load), list[float]()
    batch_times.begin(loader, noted, 100.1, over=lambda: seen.append("over"), another=lambda: seen.append("?"))
    for batch in loader:
        now += 0.2 if batch == [2] else 0.01
    for subscription in filter(None, (watching, keeping)):
        subscription.close()
    assert noted == pytest.approx([100.0, 0.02, 100.03, 0.02, 100.25, 0.02])
    assert seen == ([[1], [2], "over", [3], [4]] if told else ["over"])


def test_a_batch_of_another_loader_is_not_noted_but_told_of() -> None:
    seen: list[str] = []
    keeping = LOADER_BEGIN.subscribe(lambda loader: None)
    one, other = (DataLoader(Numbers(2)) for _ in range(2))
    noted: list[float] = []

    def another() -> None:
        batch_times.end()
        seen.append("another")

    batch_times.begin(one, noted, float("inf"), over=lambda: seen.append("over"), another=another)
    for _ in zip(one, other, strict=True):
        pass
    keeping.close()
    assert len(noted) == 2 and seen == ["another"]
