"""An int8 copy of a graph (ONNX), calibrated on images: post-training quantisation by NNCF."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.errors import ConfigurationError


def quantise_graph(graph: Path, images: Sequence[np.ndarray]) -> bytes:
    """Return a graph whose convolutions and products compute in 8 bits.

    Args:
        graph: an ONNX file.
        images: uint8 [n, h, w, 3] for each of its inputs, by which the ranges of activations are set.

    Raises:
        ConfigurationError: NNCF is not installed.
    """
    if importlib.util.find_spec("nncf") is None:
        raise ConfigurationError("quantising needs NNCF; `pip install finepoint[int8]`")
    import nncf
    import onnx

    model = onnx.load(graph)
    names = [value.name for value in model.graph.input]
    logging.getLogger("nncf").setLevel(logging.WARNING)
    samples: list[dict[str, Any]] = [
        {name: batch[index : index + 1] for name, batch in zip(names, images, strict=True)}
        for index in range(len(images[0]))
    ]
    quantised = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))
    return bytes(quantised.SerializeToString(deterministic=True))
