"""Measuring what changes would give the features pass: a window of the same images, once for each change.

A pass decodes on some threads beside the inference. So a window lasts as long as the slowest of decoding divided among
the threads, inference, and the work of both divided among the cores; that is what is predicted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finepoint.data.loading import Batch, load_batches
from finepoint.models.backbones import Backbone
from finepoint.models.choice import BATCH, Choice, candidates, open_runtime
from finepoint.models.runtimes import Runtime, cores
from finepoint.profiler.trying import Tried, compare
from finepoint.training.features import ImageFile, kept_features

# Each is measured so often, in turn with the others, and its fastest counts: what else the machine does is not the
# change's.
_ROUNDS = 2


@dataclass(frozen=True)
class Way:
    """How a features pass is done.

    Args:
        threads: that decode.
        batch: images in an inference.
        choice: what computes.
    """

    threads: int
    batch: int
    choice: Choice


def try_features(images: Sequence[ImageFile], backbone: Backbone, choice: Choice) -> list[Tried]:
    """Pass over images as a run does, and then with each change that applies; return a row for each.

    Changes are the decoding threads, the batch, the runtimes and precisions that are usable here, and, as an epoch
    after the first has them, features from the cache. `seconds_per_step` is of a batch of 8 images, as in a run.

    Args:
        images: of the window, all readable; their features are computed anew, and not kept.
        backbone: of the run.
        choice: likewise.
    """
    paths = [image.path for image in images]
    plain = Way(cores(), BATCH, choice)
    ways = {"as it is": plain, **_changes(plain)}
    opened: dict[tuple[str, str], Runtime] = {}
    for way in ways.values():
        key = (way.choice.runtime, way.choice.precision)
        if key not in opened:
            opened[key] = open_runtime(backbone, way.choice)
            _pass(paths[: 2 * BATCH], backbone, opened[key], way)  # compiled and warm
    seconds: dict[str, float] = dict.fromkeys(ways, float("inf"))
    features: dict[str, np.ndarray] = {}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            runtime = opened[way.choice.runtime, way.choice.precision]
            began = time.perf_counter()
            features[name] = _pass(paths, backbone, runtime, way)
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    costs = _Costs.measured(paths, backbone, opened[choice.runtime, choice.precision], choice)
    rows = [_row(name, ways[name], plain, costs, seconds, features, len(paths)) for name in ways]
    return [*rows, _cached(images, backbone, choice, seconds["as it is"], features["as it is"])]


def _changes(plain: Way) -> dict[str, Way]:
    """Return the changes that apply here, by what they are called in the table."""
    found = {f"decoding threads={count}": replace(plain, threads=count) for count in (1, 2 * plain.threads)}
    found |= {f"batch={size}": replace(plain, batch=size) for size in (plain.batch // 2, plain.batch * 4)}
    for name in candidates():
        runtime, _, precision = name.partition("/")
        if (runtime, precision) != (plain.choice.runtime, plain.choice.precision):
            other = replace(plain.choice, runtime=runtime, precision=precision)
            found[f"runtime={runtime}, precision={precision}"] = replace(plain, choice=other)
    return {name: way for name, way in found.items() if way != plain}


@dataclass(frozen=True)
class _Costs:
    """Seconds of a window: decoding on one thread, and inference alone on all cores; and how much faster others are."""

    decode: float
    infer: float
    faster: dict[str, float]

    @classmethod
    def measured(cls, paths: Sequence[Path], backbone: Backbone, runtime: Runtime, choice: Choice) -> _Costs:
        began = time.perf_counter()
        batches = list(_batches(paths, backbone, threads=1, size=BATCH))
        decoded = time.perf_counter()
        for _ in runtime.stream(((batch.indices, batch.crops) for batch in batches), ["features"]):
            pass
        ended = time.perf_counter()
        speeds = choice.images_per_second
        own = speeds.get(f"{choice.runtime}/{choice.precision}")
        return cls(
            decoded - began, ended - decoded, {name: speed / own for name, speed in speeds.items()} if own else {}
        )

    def seconds(self, way: Way) -> float | None:
        """Return what is predicted of a way; None where its inference was never measured."""
        faster = self.faster.get(f"{way.choice.runtime}/{way.choice.precision}")
        if faster is None:
            return None
        infer, count = self.infer / faster, cores()
        return max(self.decode / min(way.threads, count), infer, self.decode / count + infer)


def _row(
    name: str,
    way: Way,
    plain: Way,
    costs: _Costs,
    seconds: dict[str, float],
    features: dict[str, np.ndarray],
    images: int,
) -> Tried:
    per_batch = seconds[name] * BATCH / images
    if way == plain:
        return Tried(name, per_batch, None, 1.0, "")
    before, after = costs.seconds(plain), costs.seconds(way)
    known = before is not None and after is not None and way.batch == plain.batch
    predicted = round(before / after, 3) if known and before and after else None
    measured = round(seconds["as it is"] / seconds[name], 3)
    return Tried(name, per_batch, predicted, measured, compare(features["as it is"], features[name]))


def _cached(
    images: Sequence[ImageFile], backbone: Backbone, choice: Choice, seconds: float, features: np.ndarray
) -> Tried:
    """Return what the features cost that the run has kept."""
    began = time.perf_counter()
    cache = kept_features(backbone, choice)
    if any(image.sha256 not in cache for image in images):
        return Tried("cached features", None, None, None, "they are no longer in the cache")
    kept = cache.read([image.sha256 for image in images])
    spent = time.perf_counter() - began
    measured = round(seconds / spent, 1)
    return Tried("cached features", spent * BATCH / len(images), None, measured, compare(features, kept))


def _pass(paths: Sequence[Path], backbone: Backbone, runtime: Runtime, way: Way) -> np.ndarray:
    """Return the features of images that can be read, in order."""
    rows: dict[int, np.ndarray] = {}
    batches = _batches(paths, backbone, threads=way.threads, size=way.batch)
    named = ((batch.indices, batch.crops) for batch in batches if batch.indices)
    for indices, outputs in runtime.stream(named, ["features"]):
        rows |= dict(zip(indices, outputs["features"], strict=True))
    return np.stack([rows[index] for index in sorted(rows)])


def _batches(paths: Sequence[Path], backbone: Backbone, *, threads: int, size: int) -> Iterable[Batch]:
    return load_batches(paths, [backbone.preprocessing], batch_size=size, workers=threads, prefetch=2 * cores())
