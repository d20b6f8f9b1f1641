"""Compiled graphs are kept by their content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from finepoint.files import cache_dir
from finepoint.models.runtimes import OpenVinoRuntime

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPOINT_CACHE", str(tmp_path / "cache"))


def write_graph(path: Path, factor: float) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    made = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["real"], to=kind.FLOAT),
            helper.make_node("Mul", ["real", "factor"], ["logits"]),
        ],
        "product",
        [helper.make_tensor_value_info("image", kind.UINT8, ["n", 2, 2, 3])],
        [helper.make_tensor_value_info("logits", kind.FLOAT, ["n", 2, 2, 3])],
        [onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def logits(path: Path) -> np.ndarray:
    return OpenVinoRuntime(path, keep=True)([IMAGES], ["logits"])["logits"]


def kept() -> list[Path]:
    return sorted(path for path in (cache_dir() / "compiled").rglob("*") if path.is_file())


def test_a_second_start_reads_what_the_first_compiled_and_answers_the_same(tmp_path: Path) -> None:
    write_graph(tmp_path / "model.onnx", 3)
    first, files = logits(tmp_path / "model.onnx"), kept()
    assert len(files) == 1
    np.testing.assert_array_equal(first, 3.0 * IMAGES)
    np.testing.assert_array_equal(logits(tmp_path / "model.onnx"), first)
    assert kept() == files


def test_another_graph_under_the_same_path_is_not_answered_with_the_old_ones_numbers(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_graph(path, 3)
    logits(path)
    before = path.stat()
    write_graph(path, 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    np.testing.assert_array_equal(logits(path), 5.0 * IMAGES)


def test_where_the_cache_cannot_be_written_the_graph_is_compiled_each_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    write_graph(tmp_path / "model.onnx", 3)
    np.testing.assert_array_equal(logits(tmp_path / "model.onnx"), 3.0 * IMAGES)
