"""Channels: the folders that a job gets its images from, and their features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.data.dataset import LabelledImage
from finepoint.data.finding import find_images
from finepoint.data.shards import unpacked
from finepoint.files import sha256_of
from finepoint.models.backbones import Backbone
from finepoint.models.choice import Choice
from finepoint.models.runtimes import cores
from finepoint.training.features import FeaturePass, ImageFile, Progress, embed


@dataclass(frozen=True)
class Channel:
    """The images of one channel.

    Args:
        images: files and their hashes.
        labels: the class name of each.
    """

    images: tuple[ImageFile, ...]
    labels: tuple[str, ...]


@dataclass
class FeatureCount:
    """How many images were embedded, over several passes.

    Args:
        images_embedded: computed now, by at least one backbone.
        images_from_cache: found computed.
        seconds: in all.
        failures: path to the reason why it could not be embedded.
    """

    images_embedded: int = 0
    images_from_cache: int = 0
    seconds: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, images: Sequence[ImageFile], passes: Sequence[FeaturePass]) -> None:
        """Count one set of images that every backbone passed over."""
        self.images_embedded += max(one.images_embedded for one in passes)
        self.images_from_cache += min(one.images_from_cache for one in passes)
        self.seconds += sum(one.seconds for one in passes)
        for one in passes:
            self.failures |= {str(images[index].path): reason for index, reason in one.failures.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the `features` object of `summary.json`."""
        rate = self.images_embedded / self.seconds if self.images_embedded and self.seconds else 0.0
        return {
            "images_embedded": self.images_embedded,
            "images_from_cache": self.images_from_cache,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(rate, 1),
            "failures": self.failures,
        }


def read_channel(path: Path) -> Channel:
    """Return the images of a channel: a folder of class folders, one with a manifest, or shards of either.

    Raises:
        DataError: there are none.
    """
    found = find_images(unpacked(path))
    files = [found.root / image.path for image in found.images]
    with ThreadPoolExecutor(cores()) as pool:
        hashes = list(pool.map(_hash, found.images, files))
    images = tuple(ImageFile(file, sha256) for file, sha256 in zip(files, hashes, strict=True))
    return Channel(images, tuple(image.label for image in found.images))


def embed_channel(
    channel: Channel,
    backbones: Sequence[Backbone],
    choices: Sequence[Choice],
    count: FeatureCount,
    progress: Progress | None = None,
) -> tuple[np.ndarray, list[int], tuple[int, ...]]:
    """Return features float32 [n, d] of the channel's usable images, their indices, and each backbone's width."""
    passes = [
        embed(channel.images, backbone, choice, progress=progress)
        for backbone, choice in zip(backbones, choices, strict=True)
    ]
    count.add(channel.images, passes)
    failed = {index for one in passes for index in one.failures}
    usable = [index for index in range(len(channel.images)) if index not in failed]
    joined = np.concatenate([one.features for one in passes], axis=1)[usable]
    return joined, usable, tuple(one.features.shape[1] for one in passes)


def _hash(image: LabelledImage, path: Path) -> str:
    return image.sha256 or sha256_of(path)
