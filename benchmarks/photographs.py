"""Images to measure on: the user's own, or made-up photographs that cost as much to decode as real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from finepoint.data.finding import find_images


def photographs(given: Path | None, folder: Path, count: int) -> list[Path]:
    """Return paths of `count` images: from the given folder, or 400 x 533 JPEGs made in `folder`."""
    if given is not None:
        found = find_images(given)
        paths = [found.root / image.path for image in found.images]
        return [paths[index] for index in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]
    made = []
    for number in range(count):
        path = folder / "photographs" / ("a" if number % 2 else "b") / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_photograph(number)).save(path, quality=88)
        made.append(path)
    return made


def _photograph(seed: int) -> np.ndarray:
    """Return noise with a photograph's spectrum: layers of ever finer detail and ever less contrast."""
    generator = np.random.default_rng(seed)
    picture = np.full((533, 400, 3), 128.0)
    for power in range(2, 9):
        layer = generator.normal(0, 90 / power, (2**power, 2**power, 3))
        scaled = Image.fromarray(np.clip(layer + 128, 0, 255).astype(np.uint8)).resize(
            (400, 533), Image.Resampling.BICUBIC
        )
        picture += np.asarray(scaled, float) - 128
    return np.clip(picture, 0, 255).astype(np.uint8)
