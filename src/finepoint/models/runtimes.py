"""Running an exported graph: OpenVINO or ONNX Runtime on a CPU, torch on a GPU. No torch is imported for the first two.

Every runtime has the same two ways in: a call, for one batch now, and `stream`, for many batches whose decoding
goes on while earlier ones are computed.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from finepoint.errors import ConfigurationError

if TYPE_CHECKING:
    from finepoint.models.backbones import Backbone

Tag = TypeVar("Tag")
Outputs = dict[str, np.ndarray]


class Runtime(ABC):
    """A graph, loaded and ready.

    Attributes:
        name: `openvino`, `onnxruntime`, `cuda` or `mps`.
        precision: `f32` or `bf16`, of the arithmetic.
        version: of the library.
        parallel: calls that it computes beside each other, each as fast as alone.
    """

    name: str
    precision: str
    version: str
    parallel: int = 1

    @abstractmethod
    def __call__(self, images: Sequence[np.ndarray], outputs: Sequence[str]) -> Outputs:
        """Return the named outputs for one batch.

        Args:
            images: uint8 [n, h, w, 3] for each input of the graph.
            outputs: names of the graph's outputs.
        """

    def stream(
        self, batches: Iterable[tuple[Tag, Sequence[np.ndarray]]], outputs: Sequence[str]
    ) -> Iterator[tuple[Tag, Outputs]]:
        """Yield the outputs of each batch with its tag, in any order, a few batches ahead of the reader."""
        for tag, images in batches:
            yield tag, self(images, outputs)


class OpenVinoRuntime(Runtime):
    """OpenVINO on the CPU.

    Args:
        graph: an ONNX file, or its bytes.
        precision: `f32` or `bf16`.
        throughput: several batches at once, for a stream; else one batch on all cores, for an answer soon.
        threads: at most so many; 0 lets OpenVINO choose.
        keep: in the cache what was compiled of a file, for the next start.
    """

    name = "openvino"

    def __init__(
        self,
        graph: Path | bytes,
        precision: str = "f32",
        *,
        throughput: bool = False,
        threads: int = 0,
        keep: bool = False,
    ) -> None:
        import openvino

        self.precision = precision
        self.version = _openvino_version()
        core = openvino.Core()
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "THROUGHPUT" if throughput else "LATENCY",
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        if isinstance(graph, bytes):
            self._compiled = core.compile_model(core.read_model(graph, b""), "CPU", options)
        elif keep:
            from finepoint.models.compiled import compile_kept  # here, because it is not in a package's code/

            self._compiled = compile_kept(
                graph, str(openvino.__version__), options, lambda given: core.compile_model(graph, "CPU", dict(given))
            )
        else:
            self._compiled = core.compile_model(graph, "CPU", options)
        self.parallel = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def __call__(self, images: Sequence[np.ndarray], outputs: Sequence[str]) -> Outputs:
        request = self._compiled.create_infer_request()
        request.infer(list(images), share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in outputs}

    def stream(
        self, batches: Iterable[tuple[Tag, Sequence[np.ndarray]]], outputs: Sequence[str]
    ) -> Iterator[tuple[Tag, Outputs]]:
        """Yield results as they come; one request more than run at once keeps the cores from waiting."""
        requests = [self._compiled.create_infer_request() for _ in range(self.parallel + 1)]
        running: list[tuple[Any, Tag, Sequence[np.ndarray]]] = []

        def finish() -> tuple[Tag, Outputs]:
            request, tag, _ = running.pop(0)
            request.wait()
            result = {name: request.get_tensor(name).data.copy() for name in outputs}
            requests.append(request)
            return tag, result

        for tag, images in batches:
            if not requests:
                yield finish()
            request = requests.pop()
            request.start_async(list(images), share_inputs=True)
            running.append((request, tag, images))  # the arrays live until the request is done
        while running:
            yield finish()


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU: the portable choice, in f32."""

    name = "onnxruntime"
    precision = "f32"

    def __init__(self, graph: Path | bytes, *, threads: int = 0) -> None:
        import onnxruntime

        self.version = str(onnxruntime.__version__)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        source = str(graph) if isinstance(graph, Path) else graph
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]

    def __call__(self, images: Sequence[np.ndarray], outputs: Sequence[str]) -> Outputs:
        values = self._session.run(list(outputs), dict(zip(self._inputs, images, strict=True)))
        return dict(zip(outputs, values, strict=True))


class TorchRuntime(Runtime):
    """A backbone's own network on a GPU (`cuda`, `mps`); it needs the weights in the cache, not the graph.

    Args:
        backbone: a resolved backbone.
        device: `cuda`, `mps`, or `cpu` (for comparison; it is slower than the other runtimes).
    """

    precision = "f32"

    def __init__(self, backbone: Backbone, device: str) -> None:
        import torch

        from finepoint.models.architectures import GraphModule
        from finepoint.models.weights import load_network

        self.name = device
        self.version = str(torch.__version__)
        preprocessing = backbone.preprocessing
        module = GraphModule(load_network(backbone), preprocessing.mean, preprocessing.std)
        self._module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device

    def __call__(self, images: Sequence[np.ndarray], outputs: Sequence[str]) -> Outputs:
        return self._collect(self._start(images), outputs)

    def stream(
        self, batches: Iterable[tuple[Tag, Sequence[np.ndarray]]], outputs: Sequence[str]
    ) -> Iterator[tuple[Tag, Outputs]]:
        """Yield each result after the next batch was started, so that the GPU does not wait for the copy back."""
        waiting: tuple[Tag, Any] | None = None
        for tag, images in batches:
            started = (tag, self._start(images))
            if waiting is not None:
                yield waiting[0], self._collect(waiting[1], outputs)
            waiting = started
        if waiting is not None:
            yield waiting[0], self._collect(waiting[1], outputs)

    def _start(self, images: Sequence[np.ndarray]) -> Any:
        import torch

        batch = torch.from_numpy(images[0])
        if self._device == "cuda":
            batch = batch.pin_memory()
        with torch.inference_mode():
            return self._module(batch.to(self._device, non_blocking=True))

    def _collect(self, results: Any, outputs: Sequence[str]) -> Outputs:
        named = dict(zip(("features", "feature_map"), results, strict=False))
        return {name: named[name].cpu().numpy() for name in outputs}


def load_graph(graph: Path | bytes, runtime: str = "auto", precision: str = "f32", **options: Any) -> Runtime:
    """Return an exported graph, loaded by `openvino` or `onnxruntime` (`auto`: the first one installed).

    Raises:
        ConfigurationError: the runtime is unknown or not installed, or the CPU lacks the precision.
    """
    import importlib.util

    installed = [name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name)]
    if runtime == "auto":
        runtime = installed[0] if installed else "openvino"
    if runtime not in installed:
        raise ConfigurationError(
            f"runtime {runtime!r} cannot run an exported graph here; installed: {', '.join(installed) or 'none'} "
            "(`pip install openvino` brings one)"
        )
    if runtime == "openvino":
        if precision == "bf16" and not cpu_has_bf16():
            raise ConfigurationError("this CPU has no bf16 arithmetic; it would be tens of times slower than f32")
        return OpenVinoRuntime(graph, precision, **options)
    for name in ("throughput", "keep"):
        options.pop(name, None)
    return OnnxRuntime(graph, **options)


def cpu_has_bf16() -> bool:
    """Return whether this CPU computes in bf16 itself (AVX512-BF16 or AMX), as OpenVINO reports it."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _openvino_version() -> str:
    import openvino

    return str(openvino.__version__).split("-")[0]
