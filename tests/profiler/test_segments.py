"""Segments are whole or absent, and rows of different shapes stand in one table."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from finepoint.profiler.segments import TableWriter, read_table


def test_rows_of_several_writers_come_back_in_order_of_time(tmp_path: Path) -> None:
    for writer, times in (("b", (3.0, 1.0)), ("a", (2.0,))):
        table = TableWriter(tmp_path, writer)
        table.append(*({"time": time, writer: time * 10} for time in times))
        table.seal()
    read = read_table(tmp_path)
    assert read["time"].tolist() == [1, 2, 3]
    assert read["b"].tolist()[::2] == [10, 30]
    assert np.isnan(read["b"][1]) and read["a"][1] == 20
    assert np.isnan(read["nobody wrote this"]).all()


def test_rows_of_a_process_that_adds_no_more_come_to_the_disk_in_time(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "w", seal_seconds=0.05)
    sealed = threading.Event()
    plain = writer.seal
    writer.seal = lambda: (plain(), sealed.set())  # type: ignore[assignment, func-returns-value]
    writer._sealed_at += 3600  # so that adding a row does not seal it
    writer.append({"time": 1.0})
    assert not len(read_table(tmp_path))
    writer.seal_in_time()
    assert sealed.wait(10)
    assert len(read_table(tmp_path)) == 1
    writer.close()


def test_the_first_rows_come_to_the_disk_sooner_so_that_a_job_killed_early_leaves_some(tmp_path: Path) -> None:
    def pauses(seal_seconds: float) -> list[float]:
        asked: list[float] = []
        writer = TableWriter(tmp_path, "w", seal_seconds=seal_seconds)
        writer._closed.wait = lambda seconds: asked.append(seconds) or len(asked) == 7  # type: ignore[method-assign, assignment, func-returns-value]
        writer._seal_until_closed()
        return asked

    assert np.cumsum(pauses(5.0)).tolist() == [0.5, 1, 2, 4, 9, 14, 19]
    assert pauses(0.05) == [0.05] * 7


def test_rows_are_on_disk_once_the_segment_is_old_enough_and_no_earlier(tmp_path: Path) -> None:
    patient, hasty = (
        TableWriter(tmp_path / "p", "w", seal_seconds=3600),
        TableWriter(tmp_path / "h", "w", seal_seconds=0),
    )
    for writer in (patient, hasty):
        writer.append({"time": 1.0})
    assert len(read_table(tmp_path / "p")) == 0
    assert len(read_table(tmp_path / "h")) == 1


def test_a_broken_segment_is_left_out_and_named(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "w")
    writer.append({"time": 1.0})
    writer.note("interval", 5)
    writer.seal()
    (tmp_path / "w-000001.safetensors").write_bytes(b"half")
    table = read_table(tmp_path)
    assert len(table) == 1
    assert table.notes == {"interval": 5, "unreadable": ["w-000001.safetensors"]}


def test_columns_are_named_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "w")
    writer.append({"time": 1.0, **{f"core/{number}": 0.0 for number in (10, 2, 1)}})
    writer.seal()
    assert read_table(tmp_path).named("core/") == ["core/1", "core/2", "core/10"]
    assert len(read_table(tmp_path / "not there")) == 0
