"""Running a package's own handler with the meanings and defaults of the official PyTorch inference toolkit.

`code/inference.py` may define `model_fn, input_fn, predict_fn, output_fn`, or `transform_fn` instead of the last three,
and `pre_model_fn, model_warmup_fn`; what it does not define has the toolkit's default. Source: the behaviour of
sagemaker-pytorch-inference 2.0.25 and sagemaker-inference 1.10.1; a test runs both side by side. Differences: `.npy`
bodies with pickled objects are refused, `.npz` is not read, and there is no Elastic Inference.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from finepoint.models.package import handler_file

JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"
_TEXT = (JSON, CSV)


@dataclass(slots=True)
class Context:
    """What a handler function gets that takes one argument more: the request's headers, and the answer's."""

    system_properties: dict[str, Any]
    request: Mapping[str, str] = field(default_factory=dict)
    response: dict[str, str] = field(default_factory=dict)
    status: tuple[int, str] = (200, "OK")

    def get_request_header(self, _index: int, name: str) -> str | None:
        """Return a header of the request."""
        return self.request.get(name.lower())

    def get_all_request_header(self, _index: int) -> dict[str, str]:
        """Return the headers of the request."""
        return dict(self.request)

    def set_response_header(self, _index: int, name: str, value: str) -> None:
        """Set a header of the answer."""
        self.response[name.lower()] = value

    def set_response_content_type(self, _index: int, value: str) -> None:
        """Set the answer's content type."""
        self.response["content-type"] = value

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the answer's status."""
        self.status = (code, phrase)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class UnsupportedFormatError(Exception):
    """A content type or an `Accept` that the defaults cannot serve."""

    def __init__(self, kind: object) -> None:
        super().__init__(
            f"Content type {kind} is not supported by this framework; implement input_fn or output_fn to handle it"
        )


class Handler:
    """A package's handler, with its model loaded.

    Args:
        folder: of the package, with the weights and `code/`.

    Raises:
        Exception: whatever the handler's code raises when it is imported or loads its model.
    """

    def __init__(self, folder: Path) -> None:
        module = _module(folder)
        self._context = Context({"model_dir": str(folder), "gpu_id": None})
        own = {name: getattr(module, name, None) for name in ("transform_fn", "input_fn", "predict_fn", "output_fn")}
        transform = own.pop("transform_fn")
        if transform is not None and any(own.values()):
            raise ValueError(
                "Cannot use transform_fn implementation in conjunction with input_fn, predict_fn, and/or output_fn"
            )
        self._transform_fn = transform or self._by_parts
        self._input_fn = own["input_fn"] or default_input_fn
        self._predict_fn = own["predict_fn"] or default_predict_fn
        self._output_fn = own["output_fn"] or default_output_fn
        if (before := getattr(module, "pre_model_fn", None)) is not None:
            self._call(before, str(folder))
        self._model = self._call(getattr(module, "model_fn", default_model_fn), str(folder))
        if (warm_up := getattr(module, "model_warmup_fn", None)) is not None:
            self._call(warm_up, str(folder), self._model)

    def answer(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Return the answer to a request; an exception of the handler's is an answer with its traceback.

        Args:
            body: as received.
            headers: of the request, by lower-case name.
        """
        context = self._context
        context.request, context.response, context.status = headers, {}, (200, "OK")
        kind, accept = headers.get("content-type"), headers.get("accept", "")
        if not accept or accept == "*/*":
            accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", JSON)
        try:
            data = body.decode("utf-8") if kind in _TEXT else bytearray(body)
            result = self._call(self._transform_fn, self._model, data, kind, accept)
            value, content_type = result[:2] if isinstance(result, tuple) else (result, accept)
            context.set_response_content_type(0, str(content_type))
            return Answer(context.status[0], context.response, _bytes(value))
        except Exception as error:  # noqa: BLE001 - by the contract, whatever a handler raises is its answer
            status, message = getattr(error, "status_code", 500), getattr(error, "message", None) or str(error)
            text = f"{message or 'Invalid Request'}\n{traceback.format_exc()}"
            return Answer(status if isinstance(status, int) else 500, {"content-type": "text/plain"}, text.encode())

    def _by_parts(self, model: Any, data: Any, content_type: str | None, accept: str) -> Any:
        value = self._call(self._input_fn, data, content_type)
        return self._call(self._output_fn, self._call(self._predict_fn, value, model), accept)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a handler function, with the context if it takes one argument more."""
        takes = len(signature(function).parameters)
        if takes == len(arguments):
            return function(*arguments)
        if takes == len(arguments) + 1:
            return function(*arguments, self._context)
        name = getattr(function, "__name__", "handler function")
        raise TypeError(f"{name} takes {takes} arguments but {len(arguments)} were given.")


def default_model_fn(model_dir: str) -> Any:
    """Return the TorchScript model in `model.pt`, or in the only `.pt` or `.pth` file."""
    import torch

    path = Path(model_dir) / "model.pt"
    if not path.is_file():
        found = [each for each in Path(model_dir).iterdir() if each.is_file() and each.suffix in (".pt", ".pth")]
        if len(found) != 1:
            names = [each.name for each in found]
            raise ValueError(f"Exactly one .pth or .pt file is required for PyTorch models: {names}")
        path = found[0]
    device = _device()
    try:
        model = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise RuntimeError(f"Failed to load {path}. Please ensure model is saved using torchscript.") from error
    return model.to(device)


def default_input_fn(data: str | bytearray, content_type: str | None) -> Any:
    """Return the tensor in a JSON, CSV or `.npy` body."""
    import numpy as np
    import torch

    if content_type == JSON:
        return torch.FloatTensor(np.array(json.loads(data))).to(_device())
    if content_type == CSV:
        return torch.FloatTensor(np.genfromtxt(io.StringIO(str(data)), dtype=None, delimiter=",")).to(_device())
    if content_type == NPY:
        assert isinstance(data, bytearray)
        return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False)).to(_device())
    raise UnsupportedFormatError(content_type)


def default_predict_fn(data: Any, model: Any) -> Any:
    """Return what the model makes of the data, in evaluation mode."""
    import torch

    with torch.no_grad():
        model = model.to(_device())
        model.eval()
        return model(data.to(_device()))


def default_output_fn(prediction: Any, accept: str) -> Any:
    """Return a prediction in the first form of `accept` that there is: JSON, CSV or `.npy`."""
    import numpy as np
    import torch

    if type(prediction) is torch.Tensor:
        prediction = prediction.detach().cpu().numpy().tolist()
    for kind in accept.replace(" ", "").split(","):
        if kind == JSON:
            return json.dumps(prediction, default=_listed)
        if kind == CSV:
            text = io.StringIO()
            np.savetxt(text, prediction, delimiter=",", fmt="%s")
            return text.getvalue().encode()
        if kind == NPY:
            stream = io.BytesIO()
            np.save(stream, prediction, allow_pickle=False)
            return stream.getvalue()
    raise UnsupportedFormatError(accept)


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _listed(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _module(folder: Path) -> ModuleType | None:
    """Return the handler's module, or None where there is none and the defaults do everything."""
    sys.path.insert(0, str(folder / "code"))
    name = Path(handler_file()).stem
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    return value.encode() if isinstance(value, str) else json.dumps(value, default=_listed).encode()
