"""How an image file becomes a backbone's input: the one implementation, for training, evaluation and serving.

What comes out is the cropped picture as raw RGB bytes. Mean and standard deviation are part of the description too, but
are applied as the first operation of the exported graph, so that nobody can forget them or apply them twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from finepoint.data.decoding import decode

Interpolation = Literal["bilinear", "bicubic", "lanczos"]
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """A description of preprocessing.

    Args:
        height: of the crop, in pixels.
        width: of the crop, in pixels.
        resize: what the shorter side is resized to, in pixels, before the centre is cropped.
        interpolation: `bilinear`, `bicubic` or `lanczos`, antialiased.
        mean: of red, green and blue, in 0..1 units.
        std: likewise.
        reduced_decoding: JPEGs are decoded at the smallest scale whose shorter side is at least
            this multiple of `resize`; 0 decodes them whole.
    """

    height: int
    width: int
    resize: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    reduced_decoding: float = 2.0

    @property
    def min_side(self) -> int:
        """The shorter side, in pixels, that decoding must keep; 0 is all of it."""
        return round(self.resize * self.reduced_decoding)

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """Return the crop, uint8 [height, width, 3], of a decoded image, uint8 [h, w, 3].

        The centre box is resampled straight to the crop's size, which is the same as resizing the shorter side
        and cropping, without computing pixels that the crop throws away.

        >>> square = Preprocessing(2, 2, 2, "bilinear", (0, 0, 0), (1, 1, 1))
        >>> square.apply(np.full((4, 6, 3), 7, np.uint8)).shape
        (2, 2, 3)
        """
        h, w = rgb.shape[:2]
        scale = min(h, w) / self.resize
        box_h, box_w = min(self.height * scale, h), min(self.width * scale, w)
        left, top = (w - box_w) / 2, (h - box_h) / 2
        picture = Image.fromarray(rgb).resize(
            (self.width, self.height),
            _FILTERS[self.interpolation],
            box=(left, top, left + box_w, top + box_h),
        )
        return np.asarray(picture)

    def normalised(self, crop: np.ndarray) -> np.ndarray:
        """Return a crop, uint8 [h, w, 3], as the network sees it: float32 [3, h, w]."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.ascontiguousarray(((crop.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """Return the description that `to_json` wrote."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})


def preprocess(data: bytes, preprocessings: Sequence[Preprocessing]) -> list[np.ndarray]:
    """Return an image file's bytes as one uint8 [h, w, 3] crop for each description.

    Raises:
        DecodeError: the bytes are not an image that can be read whole.
    """
    decoded: dict[int, np.ndarray] = {}
    crops = []
    for description in preprocessings:
        side = description.min_side
        if side not in decoded:
            decoded[side] = decode(data, min_side=side)
        crops.append(description.apply(decoded[side]))
    return crops
