"""Images that are of nobody's classes: made up, or cut from the two photographs that scikit-learn ships.

They are always the same, so that every run can say how many of them it would take for one of its classes. What is
akin to the classes is harder to tell than they are; benchmarks/unknown.py measures that too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

KINDS = ("noise", "patterns", "scenery")
_SIDE = 256


def strangers(kind: str, count: int = 16) -> list[np.ndarray]:
    """Return images, uint8 [256, 256, 3]: `noise`, `patterns` (stripes and checks), `scenery` (a temple, a flower).

    >>> strangers("noise", 2)[0].shape
    (256, 256, 3)
    """
    makers: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        "noise": _noise,
        "patterns": _pattern,
        "scenery": _scenery,
    }
    generator = np.random.default_rng(0)
    return [makers[kind](generator, number) for number in range(count)]


def _noise(generator: np.random.Generator, number: int) -> np.ndarray:
    """Return noise of coarser and coarser grain."""
    side = _SIDE >> (number % 5)
    pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def _pattern(generator: np.random.Generator, number: int) -> np.ndarray:
    """Return stripes or checks in two colours."""
    angle, period = generator.uniform(0, np.pi), generator.uniform(8, 64)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    stripes = np.floor(along / period) % 2
    mask = stripes if number % 2 else np.abs(stripes - np.floor(across / period) % 2)
    colours = generator.integers(0, 256, (2, 3))
    return np.asarray(colours[mask.astype(int)], np.uint8)


def _scenery(generator: np.random.Generator, number: int) -> np.ndarray:
    """Return a square of one of the photographs."""
    from sklearn.datasets import load_sample_images

    picture = load_sample_images().images[number % 2]
    height, width = picture.shape[:2]
    side = int(min(height, width) * generator.uniform(0.4, 1.0))
    top, left = (int(generator.integers(0, room - side + 1)) for room in (height, width))
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
