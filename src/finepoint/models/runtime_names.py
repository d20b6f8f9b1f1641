"""What may compute a package, by name; the command line reads them without importing any of it."""

from __future__ import annotations

from typing import Literal, get_args

RuntimeName = Literal["auto", "openvino", "onnxruntime", "cuda", "mps"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
