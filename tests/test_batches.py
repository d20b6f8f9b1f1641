"""A loader's batches are told of, or noted, and its iterator is its own."""

from __future__ import annotations

import time
from typing import Any

import pytest
from torch.utils.data import DataLoader

from finepoint.batches import BATCH, LOADER_BEGIN, LOADER_END, batch_times


def test_a_loaders_batches_are_told_and_its_iterator_is_its_own() -> None:
    told: list[Any] = []
    loader = DataLoader([1, 2, 3], batch_size=2)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("told", [True, False])
def test_batches_are_noted_until_it_is_time_and_told_to_others_all_the_while(told: bool) -> None:
    seen: list[Any] = []
    watching = BATCH.subscribe(lambda loader, batch, waited: seen.append(batch.tolist())) if told else None
    keeping = LOADER_BEGIN.subscribe(lambda loader: None)
    loader, noted = DataLoader([1, 2, 3, 4]), list[float]()  # type: ignore[arg-type]
    began = time.perf_counter()
    batch_times.begin(loader, noted, began + 0.1, over=lambda: seen.append("over"), another=lambda: seen.append("?"))
    for batch in loader:
        time.sleep(0.15 if batch.item() == 2 else 0)
    for subscription in filter(None, (watching, keeping)):
        subscription.close()
    at, waited = noted[::2], noted[1::2]
    assert len(at) == 3 and at == sorted(at) and began < at[0] and at[2] - at[1] > 0.15
    assert all(0 <= seconds < 0.1 for seconds in waited)
    assert seen == ([[1], [2], "over", [3], [4]] if told else ["over"])


def test_a_batch_of_another_loader_is_not_noted_but_told_of() -> None:
    seen: list[str] = []
    keeping = LOADER_BEGIN.subscribe(lambda loader: None)
    one, other = (DataLoader([1, 2]) for _ in range(2))  # type: ignore[arg-type]
    noted: list[float] = []

    def another() -> None:
        batch_times.end()
        seen.append("another")

    batch_times.begin(one, noted, float("inf"), over=lambda: seen.append("over"), another=another)
    for _ in zip(one, other, strict=True):
        pass
    keeping.close()
    assert len(noted) == 2 and seen == ["another"]
