"""A real data set for the demonstration: scikit-learn's handwritten digits as folders of images."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

_SCALE = 8
_DONE = ".complete"


def make_digits(folder: Path, *, seed: int = 0) -> Path:
    """Make `train/`, `valid/` and `test/` folders of 1,797 handwritten digits, ten classes, and return `folder`.

    The images are 8 × 8 pixels, enlarged to 64 × 64 PNG. A folder that is already there is left as it is.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, as shipped with
    scikit-learn.
    """
    if (folder / _DONE).is_file():
        return folder
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".digits.", dir=folder.parent) as name:
        temporary = Path(name) / "digits"
        for place, index in enumerate(order):
            split = "test" if place % 10 == 0 else "valid" if place % 10 == 1 else "train"
            target = temporary / split / str(digits.target[index]) / f"{index:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.round(255 - digits.images[index] * (255 / 16)).astype(np.uint8)
            side = pixels.shape[0] * _SCALE
            Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(target)
        (temporary / _DONE).touch()
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    return folder
