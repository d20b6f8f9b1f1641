"""Exported graphs (ONNX): of a backbone, kept in the cache, and of a whole classifier, made from those and a head.

A backbone's graph takes `image`, uint8 [n, h, w, 3], normalises it, and gives `features` [n, d] and, where the
architecture has one, `feature_map` [n, c, h', w']. A classifier's graph takes `image` (`image_0`, `image_1`, ...
with several backbones) and gives `logits`, `features` and the feature maps. `n` is free in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from finepoint.errors import WeightsError
from finepoint.files import atomic_path, cache_dir, digest_of

if TYPE_CHECKING:
    from finepoint.models.backbones import Backbone

OPSET = 18


# Of a head's hidden units below zero: at the upper end of the default learning rates four of five plain ReLUs died.
SLOPE = 0.01


@dataclass(frozen=True)
class HeadLayers:
    """A head as arrays.

    Args:
        shift: [d], taken from the features before they are scaled.
        scale: [d], by which they are then multiplied.
        layers: (weight [out, in], bias [out]) of each linear layer; a leaky ReLU of `SLOPE` stands between two
            layers, and nothing follows the last.
    """

    shift: np.ndarray
    scale: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return float32 logits [n, classes] of features [n, d]."""
        values = (features.astype(np.float32) - self.shift) * self.scale
        for index, (weight, bias) in enumerate(self.layers):
            if index:
                values = np.maximum(values, SLOPE * values)
            values = values @ weight.T + bias
        return np.asarray(values, np.float32)

    def logits_and_gradients(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return one image's logits, float64 [classes], and their gradients [classes, d] by its features [d]."""
        values = (features.astype(np.float64) - self.shift) * self.scale
        slopes = []
        for index, (weight, bias) in enumerate(self.layers):
            if index:
                slopes.append(np.where(values > 0, 1, SLOPE))
                values = np.maximum(values, SLOPE * values)
            values = weight @ values + bias
        gradients: np.ndarray = self.layers[-1][0].astype(np.float64)
        for (weight, _), slope in zip(self.layers[-2::-1], slopes[::-1], strict=True):
            gradients = (gradients * slope) @ weight
        return values, gradients * self.scale


def backbone_graph(backbone: Backbone) -> Path:
    """Return the ONNX file of a resolved backbone, exporting it if the cache does not have it.

    Raises:
        WeightsError: the architecture cannot be exported; the exporter's reason is in the message.
    """
    import importlib.metadata

    # The versions that decide the graph; asking the metadata does not import torch.
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "torchvision")}
    key = digest_of({"backbone": backbone.digest, "versions": versions, "opset": OPSET, "layout": 1})
    path = cache_dir() / "graphs" / f"{key}.onnx"
    if not path.is_file():
        with atomic_path(path) as temporary:
            _export(backbone, temporary)
    return path


def output_width(backbone: Backbone, output: Literal["features", "feature_map"]) -> int:
    """Return how many features a resolved backbone has, or channels its feature map, which its last features are."""
    import onnx

    graph = onnx.load(backbone_graph(backbone), load_external_data=False).graph
    shapes = {value.name: value.type.tensor_type.shape for value in graph.output}
    return int(shapes[output].dim[1].dim_value)


def compose(graphs: Sequence[Path], head: HeadLayers, producer: str) -> bytes:
    """Return the ONNX model of a classifier: backbones side by side, their features joined, the head on top.

    Args:
        graphs: one backbone graph each, in the order in which their features are joined.
        head: what maps the joined features to logits.
        producer: what the model says made it.
    """
    import onnx
    from onnx import TensorProto, compose, helper

    several = len(graphs) > 1
    parts = []
    for index, path in enumerate(graphs):
        part = onnx.load(path)
        parts.append(compose.add_prefix(part, f"backbone_{index}/") if several else part)
    nodes, initializers, inputs, outputs, joined = [], [], [], [], []
    for index, part in enumerate(parts):
        prefix = f"backbone_{index}/" if several else ""
        names = {f"{prefix}image": f"image_{index}" if several else "image"}
        names[f"{prefix}feature_map"] = f"feature_map_{index}" if several else "feature_map"
        _rename(part, names)
        nodes += list(part.graph.node)
        initializers += list(part.graph.initializer)
        inputs += list(part.graph.input)
        outputs += [value for value in part.graph.output if "feature_map" in value.name]
        joined.append(f"{prefix}features")
    if several:
        nodes.append(helper.make_node("Concat", joined, ["features"], name="join", axis=1))
    head_nodes, head_arrays = _head_nodes(head)
    width, classes = head.layers[0][0].shape[1], head.layers[-1][0].shape[0]
    results = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", width]),
    ]
    graph = helper.make_graph(nodes + head_nodes, "classifier", inputs, results + outputs, initializers + head_arrays)
    model = helper.make_model(graph, producer_name=producer, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10  # what every runtime that knows opset 18 reads
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _head_nodes(head: HeadLayers) -> tuple[list[Any], list[Any]]:
    from onnx import helper, numpy_helper

    arrays = [
        numpy_helper.from_array(head.shift.astype(np.float32), "head/shift"),
        numpy_helper.from_array(head.scale.astype(np.float32), "head/scale"),
    ]
    nodes = [
        helper.make_node("Sub", ["features", "head/shift"], ["head/shifted"], name="head/sub"),
        helper.make_node("Mul", ["head/shifted", "head/scale"], ["head/in_0"], name="head/mul"),
    ]
    last = len(head.layers) - 1
    for index, (weight, bias) in enumerate(head.layers):
        names = (f"head/weight_{index}", f"head/bias_{index}")
        arrays += [
            numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
            for array, name in zip((weight, bias), names, strict=True)
        ]
        result = "logits" if index == last else f"head/linear_{index}"
        nodes.append(
            helper.make_node("Gemm", [f"head/in_{index}", *names], [result], name=f"head/gemm_{index}", transB=1)
        )
        if index != last:
            nodes.append(
                helper.make_node(
                    "LeakyRelu", [result], [f"head/in_{index + 1}"], name=f"head/leaky_{index}", alpha=SLOPE
                )
            )
    return nodes, arrays


def _rename(model: Any, names: Mapping[str, str]) -> None:
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)


def _export(backbone: Backbone, path: Path) -> None:
    import contextlib
    import io
    import logging
    import warnings

    import onnx
    import torch

    from finepoint.models.architectures import GraphModule
    from finepoint.models.weights import load_network

    preprocessing = backbone.preprocessing
    module = GraphModule(load_network(backbone), preprocessing.mean, preprocessing.std).eval()
    example = torch.zeros((2, preprocessing.height, preprocessing.width, 3), dtype=torch.uint8)
    with torch.no_grad():
        outputs = module(example)
    names = ["features", "feature_map"][: len(outputs)]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
            program = torch.onnx.export(
                module,
                (example,),
                input_names=["image"],
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"backbone {backbone.name} cannot be exported to ONNX by torch {torch.__version__} ({reason}); "
            "choose another, such as efficientnet_lite0 or resnet50"
        ) from error
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.save(model, path)


def _strip(model: Any) -> None:
    """Remove what the exporter notes about this machine (source paths, stack traces), in place."""
    del model.metadata_props[:]
    model.producer_version = ""
    model.doc_string = model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
