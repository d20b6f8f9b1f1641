"""The inference handler for containers that follow SageMaker's PyTorch inference toolkit.

It lies in a package's `code/` as `inference.py`, beside copies of the modules it needs, and answers as
finepoint's own server does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from finepoint.models.answers import answer, read_images
from finepoint.models.classifier import Classifier, Prediction, load_classifier


def model_fn(model_dir: str) -> Classifier:
    """Return the classifier in the package that was extracted to `model_dir`."""
    return load_classifier(Path(model_dir))


def input_fn(body: bytes | bytearray | str, content_type: str) -> list[bytes]:
    """Return the image files in a request: an image itself, or JSON with base64 images."""
    return read_images(body.encode() if isinstance(body, str) else bytes(body), content_type)


def predict_fn(images: Sequence[bytes], classifier: Classifier) -> tuple[Classifier, list[Prediction]]:
    """Return the predictions for image files."""
    return classifier, classifier.predict(images)


def output_fn(result: tuple[Classifier, list[Prediction]], accept: str) -> tuple[str, str]:
    """Return the answer as JSON, whatever is asked for."""
    classifier, predictions = result
    return json.dumps(answer(predictions, classifier.version, classifier.random_weights)), "application/json"
