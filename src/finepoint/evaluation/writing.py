"""Writing an evaluation: metrics, a line for each image, the mistakes with small pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finepoint.data.decoding import decode
from finepoint.errors import DecodeError
from finepoint.evaluation.calibration import softmax
from finepoint.evaluation.labels import confident_mistakes, find_label_issues
from finepoint.files import write_bytes, write_json

SHOWN = 24
_SIDE = 160


@dataclass(frozen=True, slots=True)
class EvaluatedImage:
    """An image of an evaluation: its name for the reader, where its file is, and its hash."""

    name: str
    file: Path
    sha256: str


def write_evaluation(
    folder: Path,
    metrics: Mapping[str, Any],
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    images: Sequence[EvaluatedImage],
) -> None:
    """Write `metrics.json`, `predictions.jsonl`, `mistakes.json`, `label_issues.json` and `thumbnails/`.

    Args:
        folder: where.
        metrics: of `evaluate_logits`.
        logits: float [n, classes].
        labels: int [n].
        classes: the class names.
        images: n of them.
    """
    probabilities = softmax(logits, metrics["temperature"])
    rows = [
        _row(image, row, int(label), classes) for image, row, label in zip(images, probabilities, labels, strict=True)
    ]
    write_bytes(
        folder / "predictions.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    )
    mistakes = confident_mistakes(probabilities, labels)
    issues = find_label_issues(probabilities, labels)
    shown = {*mistakes[:SHOWN], *(issue.index for issue in issues[:SHOWN])}
    pictures = {index: _thumbnail(folder, images[index]) for index in shown}
    write_json(
        folder / "mistakes.json",
        {"count": len(mistakes), "images": [_shown(rows[index], pictures[index]) for index in mistakes[:SHOWN]]},
    )
    write_json(
        folder / "label_issues.json",
        {
            "count": len(issues),
            "images": [
                {**_shown(rows[issue.index], pictures[issue.index]), "suggested": classes[issue.suggested]}
                for issue in issues[:SHOWN]
            ],
        },
    )
    write_json(folder / "metrics.json", dict(metrics))


def _row(image: EvaluatedImage, probabilities: np.ndarray, label: int, classes: Sequence[str]) -> dict[str, Any]:
    best = int(probabilities.argmax())
    return {
        "path": image.name,
        "label": classes[label],
        "predicted": classes[best],
        "probability": round(float(probabilities[best]), 6),
        "label_probability": round(float(probabilities[label]), 6),
        "probabilities": [round(float(value), 6) for value in probabilities],
    }


def _shown(row: Mapping[str, Any], thumbnail: str | None) -> dict[str, Any]:
    kept = ("path", "label", "predicted", "probability", "label_probability")
    return {**{key: row[key] for key in kept}, "thumbnail": thumbnail}


def _thumbnail(folder: Path, image: EvaluatedImage) -> str | None:
    """Write a small JPEG of the image and return its path below `folder`; None if the file is gone by now."""
    name = f"thumbnails/{image.sha256[:16]}.jpg"
    try:
        picture = Image.fromarray(decode(image.file.read_bytes(), min_side=2 * _SIDE))
    except (OSError, DecodeError):
        return None
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    write_bytes(folder / name, stream.getvalue())
    return name
