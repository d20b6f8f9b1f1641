"""Putting small pictures of training images into a package, for the endpoint to show which are like a new one."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from finepoint.data.dataset import DataSet, LabelledImage
from finepoint.data.decoding import decode
from finepoint.errors import DecodeError
from finepoint.files import write_bytes
from finepoint.models.building import tensor_bytes
from finepoint.models.classifier import Classifier
from finepoint.models.similar import SIMILAR, SimilarImages

_SIDE = 96
_BATCH = 16


def write_thumbnails(package: Path, classifier: Classifier, data: DataSet, count: int, seed: int) -> dict[str, int]:
    """Write pictures of `count` training images, as many of each class as may be, and return the description's object.

    Args:
        package: the folder.
        classifier: loaded from it; it has a detector of unknown images, along whose directions likeness is measured.
        data: of the run.
        count: of the pictures.
        seed: of their choice.
    """
    assert classifier.unknown is not None
    chosen = _chosen(data, count, seed)
    pictures, labels, coordinates = [], [], []
    for start in range(0, len(chosen), _BATCH):
        crops, part = [], chosen[start : start + _BATCH]
        for image in part:
            try:
                content = data.path_of(image).read_bytes()
                crops.append(classifier.preprocess(content))
                pictures.append(_small(content))
            except (OSError, DecodeError):
                continue  # gone since it was checked; another picture less
            labels.append(classifier.classes.index(image.label))
        if crops:
            stacked = [np.stack(column) for column in zip(*crops, strict=True)]
            features = classifier.compute(stacked, ["features"])["features"]
            coordinates.append(classifier.unknown.coordinates(features))
    found = SimilarImages(np.concatenate(coordinates), np.array(labels, np.int32), pictures)
    write_bytes(package / SIMILAR, tensor_bytes(found.arrays()))
    return {"images": len(pictures), "side": _SIDE}


def _chosen(data: DataSet, count: int, seed: int) -> list[LabelledImage]:
    """Return training images, one of each class after another until there are enough."""
    classes: dict[str, list[LabelledImage]] = defaultdict(list)
    images = data.part("train")
    for index in np.random.default_rng(seed).permutation(len(images)):
        classes[images[index].label].append(images[index])
    rounds = max(map(len, classes.values()))
    turns = [classes[label][turn] for turn in range(rounds) for label in sorted(classes) if turn < len(classes[label])]
    return turns[:count]


def _small(content: bytes) -> bytes:
    picture = Image.fromarray(decode(content, min_side=_SIDE))
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=75)
    return stream.getvalue()
