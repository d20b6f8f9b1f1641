"""Small pictures of some training images in a package, and which of them an image is most like. No torch."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIMILAR = "similar.safetensors"


@dataclass(frozen=True)
class SimilarImages:
    """Small pictures of training images.

    Args:
        coordinates: float32 [n, k], along the directions of the package's detector of unknown images.
        labels: int32 [n], numbers of their classes.
        pictures: a JPEG file of each.
    """

    coordinates: np.ndarray
    labels: np.ndarray
    pictures: Sequence[bytes]

    def nearest(self, coordinates: np.ndarray, classes: Sequence[str], count: int = 4) -> list[dict[str, Any]]:
        """Return the pictures most like an image with coordinates [k], the likest first, each with its class."""
        order = np.argsort(((self.coordinates - coordinates) ** 2).sum(axis=1), kind="stable")[:count]
        return [
            {
                "label": classes[int(self.labels[index])],
                "image": "data:image/jpeg;base64," + base64.b64encode(self.pictures[index]).decode(),
            }
            for index in order
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what the package keeps, by name."""
        ends = np.cumsum([len(picture) for picture in self.pictures], dtype=np.int64)
        joined = np.frombuffer(b"".join(self.pictures), np.uint8)
        return {"coordinates": self.coordinates, "ends": ends, "labels": self.labels, "pictures": joined}


def load_similar(folder: Path, description: Mapping[str, Any]) -> SimilarImages | None:
    """Return the pictures in a package's folder, or None where it has none."""
    if not description.get("thumbnails"):
        return None
    from safetensors.numpy import load_file

    arrays = load_file(folder / SIMILAR)
    ends = [0, *arrays["ends"].tolist()]
    joined = arrays["pictures"].tobytes()
    pictures = [joined[start:end] for start, end in itertools.pairwise(ends)]
    return SimilarImages(arrays["coordinates"], arrays["labels"], pictures)
