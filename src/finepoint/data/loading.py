"""Decoding many images beside whatever consumes them: in order, in bounded memory, each file read once."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finepoint.data.preprocessing import Preprocessing, preprocess
from finepoint.errors import DecodeError


@dataclass(frozen=True)
class Batch:
    """Some decoded images.

    Args:
        indices: which of the paths these are; failed ones are left out.
        crops: uint8 [n, h, w, 3], one array for each preprocessing.
        digests: SHA-256 of each image file's bytes, in hexadecimal.
        failures: (index, reason) of the images that could not be decoded.
    """

    indices: list[int]
    crops: list[np.ndarray]
    digests: list[str]
    failures: list[tuple[int, str]]


_Decoded = tuple[list[np.ndarray], str] | str


def load_batches(
    paths: Sequence[Path],
    preprocessings: Sequence[Preprocessing],
    *,
    batch_size: int,
    workers: int,
    prefetch: int,
) -> Iterator[Batch]:
    """Yield the images at `paths` in order, decoded by a pool of threads (the decoders release the GIL).

    Args:
        paths: image files.
        preprocessings: what to make of each image.
        batch_size: images in a batch; the last may have fewer.
        workers: threads.
        prefetch: batches decoded ahead of the consumer.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[_Decoded]] = deque()
        upcoming = iter(paths)
        for start in range(0, len(paths), batch_size):
            size = min(batch_size, len(paths) - start)
            while len(waiting) < size + prefetch * batch_size:
                path = next(upcoming, None)
                if path is None:
                    break
                waiting.append(pool.submit(_load, path, preprocessings))
            yield _batch(start, [waiting.popleft() for _ in range(size)], preprocessings)


def _load(path: Path, preprocessings: Sequence[Preprocessing]) -> _Decoded:
    try:
        data = path.read_bytes()
        return preprocess(data, preprocessings), hashlib.sha256(data).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except DecodeError as error:
        return str(error)


def _batch(start: int, results: list[Future[_Decoded]], preprocessings: Sequence[Preprocessing]) -> Batch:
    indices, digests, failures = [], [], []
    columns: list[list[np.ndarray]] = [[] for _ in preprocessings]
    for index, future in enumerate(results, start):
        result = future.result()
        if isinstance(result, str):
            failures.append((index, result))
            continue
        crops, digest = result
        indices.append(index)
        digests.append(digest)
        for column, crop in zip(columns, crops, strict=True):
            column.append(crop)
    crops_now = [
        np.stack(column) if column else np.zeros((0, description.height, description.width, 3), np.uint8)
        for column, description in zip(columns, preprocessings, strict=True)
    ]
    return Batch(indices, crops_now, digests, failures)
