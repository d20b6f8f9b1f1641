"""Opening what a package holds, ready to answer."""

from __future__ import annotations

from pathlib import Path

from finepoint.data.preprocessing import Preprocessing
from finepoint.models.classifier import load_classifier
from finepoint.models.package import read_description
from finepoint.models.runtimes import cores
from finepoint.serving.admission import Service
from finepoint.serving.builtin import BuiltinModel
from finepoint.serving.decoders import DecoderPool


async def open_model(folder: Path, service: Service, *, body_bytes: int) -> BuiltinModel:
    """Return the model in a package's folder, loaded and warmed up.

    Args:
        folder: of the package.
        service: bounds.
        body_bytes: of the largest request.

    Raises:
        FinepointError: it cannot be served.
    """
    description = read_description(folder)
    preprocessings = [Preprocessing.from_json(backbone["preprocessing"]) for backbone in description["backbones"]]
    # The decoders' processes import what they need while this one loads the model.
    decoders = DecoderPool(preprocessings, processes=service.decoders or cores(), image_bytes=body_bytes)
    model = BuiltinModel(load_classifier(folder), decoders, service)
    await model.open()
    return model
