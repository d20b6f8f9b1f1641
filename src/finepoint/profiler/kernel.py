"""Files in which the kernel tells of itself: /proc, /sys."""

from __future__ import annotations

import os

_CHUNK_BYTES = 1 << 16


def kernel_text(path: str) -> str:
    """Return what a file of the kernel's says now, without the layers of `open`, which take longer than the kernel.

    Raises:
        OSError: the file is not there or not ours to see, or what it tells of has gone.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(file, _CHUNK_BYTES):
            parts.append(part)
    finally:
        os.close(file)
    return os.fsdecode(b"".join(parts))
