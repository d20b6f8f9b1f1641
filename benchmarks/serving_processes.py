"""Starting what the benchmarks of serving measure."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnx
import psutil

from finepoint.data.preprocessing import Preprocessing
from finepoint.files import sha256_of, write_json
from finepoint.models.backbones import resolve_backbones
from finepoint.models.building import build_package
from finepoint.models.choice import choose_runtime
from finepoint.models.graphs import HeadLayers, output_width
from finepoint.models.package import DESCRIPTION, GRAPH, SCHEMA_VERSION

_CLASSES = 10
_SIDE = 32


@contextmanager
def package(seed: int = 0) -> Iterator[Path]:
    """Make a package of EfficientNet-Lite0 with a head of random numbers, which costs what a trained one does.

    Args:
        seed: of the numbers, and so of the package's version.
    """
    folder = Path(tempfile.mkdtemp()) / "model"
    (backbone,) = resolve_backbones(["efficientnet_lite0"])
    width = output_width(backbone, "features")
    weight = np.random.default_rng(seed).normal(0, 0.05, (_CLASSES, width)).astype(np.float32)
    head = HeadLayers(
        np.zeros(width, np.float32), np.ones(width, np.float32), ((weight, np.zeros(_CLASSES, np.float32)),)
    )
    build_package(
        folder,
        backbones=[backbone],
        choices=[choose_runtime(backbone)],
        head=head,
        classes=[f"class {number}" for number in range(_CLASSES)],
        temperature=1.0,
        metrics={},
        provenance={},
    )
    yield folder
    shutil.rmtree(folder.parent)


@contextmanager
def tiny_package() -> Iterator[Path]:
    """Make a package whose graph is a mean over pixels."""
    folder = Path(tempfile.mkdtemp()) / "model"
    folder.mkdir()
    helper, kind = onnx.helper, onnx.TensorProto
    weight = np.array([[1, -1], [-1, 1], [0, 0]], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=kind.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["features"], keepdims=0),
        helper.make_node("MatMul", ["features", "weight"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", kind.UINT8, ["n", _SIDE, _SIDE, 3])],
        [
            helper.make_tensor_value_info(name, kind.FLOAT, ["n", size])
            for name, size in (("logits", 2), ("features", 3))
        ],
        [onnx.numpy_helper.from_array(np.array([1, 2]), "axes"), onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    preprocessing = Preprocessing(_SIDE, _SIDE, _SIDE, "bicubic", (0, 0, 0), (1, 1, 1))
    description = {
        "schema_version": SCHEMA_VERSION,
        "handler": "builtin",
        "classes": ["red", "green"],
        "temperature": 1.0,
        "backbones": [{"name": "mean", "preprocessing": preprocessing.to_json(), "weights_source": "by hand"}],
        "graph": {"precision": "f32", "outputs": ["logits", "features"], "sha256": sha256_of(folder / GRAPH)},
    }
    write_json(folder / DESCRIPTION, description)
    yield folder
    shutil.rmtree(folder.parent)


@contextmanager
def serve(model: Path | None = None, options: Sequence[str] = ()) -> Iterator[tuple[str, psutil.Process]]:
    """Run our server and yield its address and process."""
    if model is None:
        with package() as made, serve(made, options) as running:
            yield running
        return
    port = free_port()
    command = [sys.executable, "-m", "finepoint.serving", "--model", str(model), "--name", "measured"]
    with running_server([*command, "--port", str(port), *options], f"http://127.0.0.1:{port}", "/ping") as found:
        yield found


@contextmanager
def running_server(
    command: Sequence[str], url: str, path: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server until it answers at a path with 200, and yield its address and process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started here ends with this process
    usual = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    # One client for all questions: making one takes tens of milliseconds of the machine that is measured.
    with (
        httpx.Client(trust_env=False, timeout=2) as client,
        subprocess.Popen(command, env={**usual, **(environment or {})}, stdout=subprocess.DEVNULL) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    if client.get(url + path).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} did not come up")
                time.sleep(0.02)
            yield url, psutil.Process(process.pid)
        finally:
            family = []
            with contextlib.suppress(psutil.NoSuchProcess):  # who measured it may have ended it
                family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            for left in psutil.wait_procs(family, timeout=1)[1]:
                left.kill()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
