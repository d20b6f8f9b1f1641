"""The format: whole segments or none, readable while written, ranks merged, a resumed job's values count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finepoint.debugger import Recording, RecordingWriter, modes
from finepoint.errors import NotFoundError


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path)
    writer.values(0, modes.TRAIN, {("loss", "mean"): 2.0, ("w", "l2"): float("inf")}, global_step=0)
    writer.values(3, modes.EVAL, {("loss", "mean"): 1.5}, global_step=7)
    writer.tensor("w", 3, modes.EVAL, np.arange(4, dtype=np.float32), 7)
    writer.fact("labels", 3, modes.EVAL, histogram={"0": 2}, share=float("nan"))
    writer.note("said once")
    writer.note("said once")
    writer.close()
    recording = Recording.open(tmp_path)
    assert recording.names() == ["loss", "w"] and recording.modes == [modes.TRAIN, modes.EVAL]
    assert recording.series("w", "l2").values.tolist() == [float("inf")]
    series = recording.series("loss", mode=modes.EVAL)
    assert (series.steps.tolist(), series.global_steps.tolist(), series.values.tolist()) == ([3], [7], [1.5])
    assert recording.tensor("w", 3, modes.EVAL).tolist() == [0, 1, 2, 3]
    assert recording.facts("labels")[0]["histogram"] == {"0": 2} and recording.facts("labels")[0]["share"] == "nan"
    assert recording.notes == ["said once"] and recording.ended
    assert recording.steps(modes.GLOBAL) == [0, 7]


def test_a_series_that_was_not_saved_is_empty_and_a_tensor_is_an_error(tmp_path: Path) -> None:
    recording = RecordingWriter(None).recording()
    assert len(recording.series("nothing", "mean", modes.TRAIN)) == 0
    with pytest.raises(NotFoundError, match="not kept whole at step 0"):
        recording.tensor("nothing", 0)
    with pytest.raises(NotFoundError, match="holds no recording"):
        Recording.open(tmp_path)


def test_a_reader_sees_what_is_sealed_and_on_refresh_what_came_since(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path)
    writer.values(0, modes.TRAIN, {("loss", "mean"): 2.0})
    writer.seal()
    writer.values(1, modes.TRAIN, {("loss", "mean"): 1.0})
    recording = Recording.open(tmp_path)
    assert recording.series("loss").steps.tolist() == [0] and not recording.ended
    writer.close()
    assert recording.refresh() and recording.series("loss").steps.tolist() == [0, 1] and recording.ended
    assert not recording.refresh()


def test_half_written_and_damaged_files_are_passed_over_and_named(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path)
    writer.values(0, modes.TRAIN, {("loss", "mean"): 2.0})
    writer.close()
    (folder,) = tmp_path.iterdir()
    (folder / "000001.part").write_bytes(b"half")
    (folder / "000002.safetensors").write_bytes(b"\xff" * 20)
    recording = Recording.open(tmp_path)
    assert recording.series("loss").steps.tolist() == [0]
    assert recording.damaged == [folder / "000002.safetensors"]


def test_ranks_are_merged_by_step_and_can_be_told_apart(tmp_path: Path) -> None:
    for rank in (1, 0):
        writer = RecordingWriter(tmp_path, rank)
        for step in range(2):
            writer.values(step, modes.TRAIN, {("loss", "mean"): 10.0 * rank + step})
        writer.close()
    recording = Recording.open(tmp_path)
    series = recording.series("loss")
    assert recording.ranks == [0, 1]
    assert (series.steps.tolist(), series.ranks.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])
    assert recording.series("loss", rank=1).values.tolist() == [10, 11]


def test_where_a_resumed_job_repeats_a_step_its_value_counts(tmp_path: Path) -> None:
    first, second = RecordingWriter(tmp_path), RecordingWriter(tmp_path)
    second.started = first.started + 10
    for writer, values in ((second, {1: 5.0, 2: 6.0}), (first, {0: 1.0, 1: 2.0})):
        for step, value in values.items():
            writer.values(step, modes.TRAIN, {("loss", "mean"): value})
        writer.close()
    assert Recording.open(tmp_path).series("loss").values.tolist() == [1, 5, 6]


def test_narrow_values_stay_narrow_on_disk_and_are_read_as_float64(tmp_path: Path) -> None:
    sizes = []
    for number, dtype in enumerate((np.float32, np.float64)):
        writer = RecordingWriter(tmp_path / str(number))
        for step in range(50):
            writer.row(step, modes.TRAIN, tuple((f"w{i}", "l2") for i in range(100)), np.ones(100, dtype))
        writer.close()
        (file,) = (tmp_path / str(number)).rglob("*.safetensors")
        sizes.append(file.stat().st_size)
        assert Recording.open(tmp_path / str(number)).series("w7").values.dtype == np.float64
    assert sizes[1] - sizes[0] == 50 * 100 * 4
