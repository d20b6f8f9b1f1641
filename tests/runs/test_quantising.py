"""When a model in int8 is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from finepoint.errors import ConfigurationError
from finepoint.models import quantising
from finepoint.models.runtimes import OnnxRuntime, OpenVinoRuntime
from finepoint.runs.quantising import Quantisation, quantise

FINE = Quantisation("f32", 0.90, 0.895, 100, 50, 0.01, 1.5, 0.95, 0.95)


def test_it_is_kept_where_it_is_faster_and_loses_no_more_than_was_allowed() -> None:
    assert FINE.reason_against == ""
    assert replace(FINE, accuracy_int8=0.89).reason_against == ""  # the allowed drop itself
    assert replace(FINE, accuracy_int8=0.95).reason_against == ""


def test_it_is_not_kept_where_it_loses_more_or_gains_nothing() -> None:
    assert "falls from 0.900 to 0.880" in replace(FINE, accuracy_int8=0.88).reason_against
    assert "0.98 times as many" in replace(FINE, speedup=0.98).reason_against


def test_a_drop_that_is_no_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"max_drop is 1\.5"):
        quantise("first", tmp_path / "out.tar.gz", max_drop=1.5)


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"pip install finepoint\[int8\]"):
        quantising.quantise_graph(tmp_path / "model.onnx", [])


def test_a_quantised_graph_answers_nearly_the_same_on_both_runtimes(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    helper, kind = onnx.helper, onnx.TensorProto
    generator = np.random.default_rng(0)
    weight = generator.normal(0, 0.01, (8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=kind.FLOAT),
        helper.make_node("Transpose", ["real"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pixels", "weight"], ["map"]),
        helper.make_node("ReduceMean", ["map", "axes"], ["logits"], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", kind.UINT8, ["n", 16, 16, 3])],
        [helper.make_tensor_value_info("logits", kind.FLOAT, ["n", 8])],
        [onnx.numpy_helper.from_array(weight, "weight"), onnx.numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    images = generator.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    quantised = quantising.quantise_graph(path, [images])
    assert {node.op_type for node in onnx.load_from_string(quantised).graph.node} >= {"QuantizeLinear"}
    expected = OnnxRuntime(path)([images], ["logits"])["logits"]
    for runtime in (OpenVinoRuntime(quantised), OnnxRuntime(quantised)):
        np.testing.assert_allclose(
            runtime([images], ["logits"])["logits"], expected, atol=0.05 * float(np.abs(expected).max())
        )
