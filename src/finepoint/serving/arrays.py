"""Images sent as a `.npy` file: pixels that are decoded already. Nothing in it is unpickled."""

from __future__ import annotations

import io

import numpy as np

from finepoint.data.decoding import MAX_PIXELS
from finepoint.errors import RequestError


def read_array(body: bytes, max_images: int) -> tuple[list[np.ndarray], bool]:
    """Return the images in a `.npy` body, each uint8 [h, w, 3], and whether it is one image rather than a list.

    Args:
        body: an array of uint8 [h, w, 3] or [n, h, w, 3], RGB.
        max_images: the largest n.

    Raises:
        RequestError: it is something else (400), or too large (413).
    """
    try:
        value = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, MemoryError, OverflowError, RecursionError) as error:
        raise RequestError(f"the body is not a .npy array without Python objects: {str(error)[:200]}", 400) from None
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim not in (3, 4) or value.shape[-1] != 3:
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else "an archive"
        raise RequestError(f"the array must be uint8 [h, w, 3] or [n, h, w, 3], RGB; it is {found}", 400)
    images = value[None] if value.ndim == 3 else value
    if 0 in images.shape:
        raise RequestError("the array is empty", 400)
    if len(images) > max_images or images[0].size > 3 * MAX_PIXELS:
        raise RequestError(f"at most {max_images} images of {MAX_PIXELS:,} pixels each in one request", 413)
    return list(images), value.ndim == 3
