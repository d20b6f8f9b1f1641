"""Features of images, computed once and kept: the cache, and the pass that fills it.

One folder holds the features of one (backbone, weights, preprocessing, runtime and its version, precision). In it lie
segments: safetensors files with `keys`, uint8 [n, 32] (the SHA-256 of each image file's bytes), and `features`,
float32 [n, d], written whole and renamed into place, so that a killed pass leaves a valid cache and two
processes can share one. Rows are memory-mapped when they are read.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from finepoint.caching import evict, mark_used, max_bytes
from finepoint.data.loading import load_batches
from finepoint.files import cache_dir, digest_of, write_bytes, write_json
from finepoint.models.backbones import Backbone
from finepoint.models.choice import BATCH, Choice, open_runtime
from finepoint.models.runtimes import Runtime, cores
from finepoint.profiler.context import part, phase, waited_for

# A segment is sealed after so many rows or seconds: what a kill can cost.
_ROWS = 1024
_SECONDS = 3.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageFile:
    """An image to embed.

    Args:
        path: where its file is.
        sha256: of the file's bytes, 64 hexadecimal digits.
    """

    path: Path
    sha256: str


@dataclass(frozen=True)
class FeaturePass:
    """What a pass over images did.

    Args:
        features: float32 [n, d], a row for each image; rows of failed images are zero.
        failures: image index to the reason why it could not be embedded.
        images_embedded: how many were computed now.
        images_from_cache: how many were there already.
        seconds: that the computing took, waiting for another process included.
    """

    features: np.ndarray
    failures: Mapping[int, str]
    images_embedded: int
    images_from_cache: int
    seconds: float


class FeatureCache:
    """The features of one backbone on one runtime, on disk.

    Args:
        folder: where; `feature_folder` names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[bytes, tuple[int, int]] = {}
        self._segments: list[np.ndarray] = []
        self._known: set[str] = set()
        self.refresh()

    def __contains__(self, sha256: str) -> bool:
        return bytes.fromhex(sha256) in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Read the segments that have come since the last look."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._known:
                continue
            self._known.add(path.name)
            try:
                with safe_open(path, framework="numpy") as file:
                    keys, features = file.get_tensor("keys"), file.get_tensor("features")
            except (SafetensorError, OSError):
                # A damaged segment costs its rows, which are computed again; it must not stop the work.
                path.unlink(missing_ok=True)
                continue
            number = len(self._segments)
            self._segments.append(features)
            for row, key in enumerate(keys):
                self._rows.setdefault(key.tobytes(), (number, row))

    def read(self, sha256s: Sequence[str]) -> np.ndarray:
        """Return float32 [n, d] for these images.

        Raises:
            KeyError: an image is not in the cache.
        """
        places = [self._rows[bytes.fromhex(sha256)] for sha256 in sha256s]
        if not places:
            return np.zeros((0, 0), np.float32)
        width = self._segments[places[0][0]].shape[1]
        result = np.empty((len(places), width), np.float32)
        for row, (segment, index) in enumerate(places):
            result[row] = self._segments[segment][index]
        return result

    def add(self, sha256s: Sequence[str], features: np.ndarray) -> None:
        """Seal a segment: features float32 [n, d] of the images with these hashes."""
        keys = np.frombuffer(b"".join(bytes.fromhex(sha256) for sha256 in sha256s), np.uint8).reshape(-1, 32)
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.safetensors"
        write_bytes(self.folder / name, save({"features": features.astype(np.float32), "keys": keys.copy()}))
        self.refresh()


def feature_folder(backbone: Backbone, runtime: str, version: str, precision: str) -> Path:
    """Return the folder that holds this backbone's features as this runtime computes them."""
    key = digest_of({"backbone": backbone.digest, "runtime": runtime, "version": version, "precision": precision})
    return cache_dir() / "features" / key[:32]


def kept_features(backbone: Backbone, choice: Choice) -> FeatureCache:
    """Return what is kept of a backbone's features as a choice computes them here."""
    return FeatureCache(feature_folder(backbone, choice.runtime, _runtime_version(choice.runtime), choice.precision))


def embed(
    images: Sequence[ImageFile], backbone: Backbone, choice: Choice, *, progress: Progress | None = None
) -> FeaturePass:
    """Return the features of images, computing only those that the cache lacks.

    Args:
        images: what to embed; the same image twice is computed once.
        backbone: a resolved backbone.
        choice: what to compute with.
        progress: called with (images done, images to do).
    """
    start = time.perf_counter()
    cache = kept_features(backbone, choice)
    failures: dict[int, str] = {}
    embedded = 0
    if any(image.sha256 not in cache for image in images):
        cache.folder.mkdir(parents=True, exist_ok=True)
        # A second process that wants the same images waits here, and then finds them in the cache.
        with FileLock(cache.folder / "lock"):
            cache.refresh()
            missing = _missing(images, cache)
            if missing:
                write_json(cache.folder / "about.json", {"backbone": backbone.to_json(), **choice.to_json()})
                with part("features"):
                    runtime = open_runtime(backbone, choice)
                    with phase("forward"):
                        failed = _fill(cache, [images[index] for index in missing], backbone, runtime, progress)
                reasons = {images[missing[place]].sha256: reason for place, reason in failed.items()}
                failures = {
                    index: reasons[image.sha256] for index, image in enumerate(images) if image.sha256 in reasons
                }
                embedded = len(missing) - len(failed)
        evict(max_bytes(), keep=[cache.folder])
    if cache.folder.is_dir():
        mark_used(cache.folder)
    usable = [index for index in range(len(images)) if index not in failures]
    rows = cache.read([images[index].sha256 for index in usable])
    features = np.zeros((len(images), rows.shape[1]), np.float32)
    features[usable] = rows
    cached = len(images) - embedded - len(failures)
    return FeaturePass(features, failures, embedded, cached, time.perf_counter() - start)


def _missing(images: Sequence[ImageFile], cache: FeatureCache) -> list[int]:
    seen: set[str] = set()
    found = []
    for index, image in enumerate(images):
        if image.sha256 not in cache and image.sha256 not in seen:
            seen.add(image.sha256)
            found.append(index)
    return found


def _fill(
    cache: FeatureCache,
    images: Sequence[ImageFile],
    backbone: Backbone,
    runtime: Runtime,
    progress: Progress | None,
) -> dict[int, str]:
    """Embed `images` into the cache; return the index and reason of each that failed."""
    failures: dict[int, str] = {}

    def batches() -> Iterator[tuple[list[int], Sequence[np.ndarray]]]:
        paths = [image.path for image in images]
        loading = load_batches(paths, [backbone.preprocessing], batch_size=BATCH, workers=cores(), prefetch=2 * cores())
        for batch in waited_for(loading):
            failures.update(batch.failures)
            changed = {
                index
                for index, digest in zip(batch.indices, batch.digests, strict=True)
                if digest != images[index].sha256
            }
            failures.update(dict.fromkeys(changed, "the file changed while it was being read"))
            if batch.indices:
                yield batch.indices, batch.crops

    hashes: list[str] = []
    rows: list[np.ndarray] = []
    sealed, done = time.monotonic(), 0
    for indices, outputs in runtime.stream(batches(), ["features"]):
        keep = [place for place, index in enumerate(indices) if index not in failures]
        hashes += [images[indices[place]].sha256 for place in keep]
        rows.append(outputs["features"][keep])
        done += len(indices)
        if progress is not None:
            progress(done + len(failures), len(images))
        if len(hashes) >= _ROWS or time.monotonic() - sealed > _SECONDS:
            with phase("other"):
                cache.add(hashes, np.concatenate(rows))
            hashes, rows, sealed = [], [], time.monotonic()
    if hashes:
        cache.add(hashes, np.concatenate(rows))
    return failures


def _runtime_version(runtime: str) -> str:
    import importlib.metadata

    return importlib.metadata.version("torch" if runtime in ("cuda", "mps") else runtime)
