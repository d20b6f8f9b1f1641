"""Opening what a package holds, ready to answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from finepoint.data.preprocessing import Preprocessing
from finepoint.errors import ConfigurationError
from finepoint.models.classifier import load_classifier, load_runtime
from finepoint.models.package import handler_file, has_own_handler, read_description
from finepoint.models.runtimes import cores
from finepoint.serving.admission import Service
from finepoint.serving.batching import Compute
from finepoint.serving.builtin import BuiltinModel
from finepoint.serving.decoders import DecoderPool
from finepoint.serving.handlers import HandlerModel
from finepoint.serving.insight import read_insight
from finepoint.serving.lean import import_openvino
from finepoint.serving.versions import package_version

# Measured best for a core of its own: more images than that leave its cache (docs/decisions/032).
_STREAM_BATCH = 2


async def open_model(
    folder: Path, service: Service, *, body_bytes: int, allow_code: bool = False, runtime: str = "auto"
) -> BuiltinModel | HandlerModel:
    """Return the model in a package's folder, loaded and warmed up.

    Args:
        folder: of the package.
        service: bounds.
        body_bytes: of the largest request.
        allow_code: the package's own handler may run.
        runtime: what computes a package with the built-in handler; see `load_classifier`.

    Raises:
        FinepointError: it cannot be served, or has a handler of its own that may not run.
    """
    if not has_own_handler(folder):
        return await _open_builtin(folder, read_description(folder), service, body_bytes, runtime)
    if not allow_code:
        raise ConfigurationError(
            f"{folder} has a handler of its own ({handler_file()}), which would run with your rights; "
            "read it, and give --allow-code if you trust it"
        )
    model = HandlerModel(folder, service, package_version(folder))
    await model.open()
    return model


async def _open_builtin(
    folder: Path, described: dict[str, Any], service: Service, body_bytes: int, runtime: str
) -> BuiltinModel:
    preprocessings = [Preprocessing.from_json(backbone["preprocessing"]) for backbone in described["backbones"]]
    # The decoders' processes import what they need while this one loads the model.
    decoders = DecoderPool(preprocessings, processes=service.decoders or cores(), image_bytes=body_bytes)
    await asyncio.to_thread(import_openvino)
    # Other models' clients are answered meanwhile.
    classifier = await asyncio.to_thread(load_classifier, folder, runtime=runtime, keep=True)
    model = BuiltinModel(classifier, decoders, service, read_insight(classifier))
    await model.open()
    if classifier.runtime.name == "openvino" and cores() > 1:
        # Under load a core for each batch computes more than all cores for one.
        model.widen_with(lambda: _streams(folder, described), _STREAM_BATCH)
    return model


def _streams(folder: Path, described: dict[str, Any]) -> tuple[Compute, int]:
    runtime = load_runtime(folder, described, "openvino", throughput=True, keep=True)
    return runtime, runtime.parallel
