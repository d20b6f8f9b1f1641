"""A trained classifier, loaded from its package: images in, calibrated probabilities out. No torch in it.

This module, and those it imports, are also copied into each package's `code/` folder, where they answer in
containers that have never heard of finepoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from finepoint.data.preprocessing import Preprocessing, preprocess
from finepoint.errors import ConfigurationError, DataError, DecodeError
from finepoint.models.package import GRAPH, open_package, read_description, version_of
from finepoint.models.runtimes import Runtime, load_graph
from finepoint.models.unknown import UnknownDetector, load_unknown

Image = bytes | str | Path


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image.

    Args:
        label: the most probable class.
        probability: of that class, calibrated, 0..1.
        probabilities: of every class (or of the first `top`), most probable first.
        path: the image's file, or None.
        unknown: whether it seems to be of none of the classes; None where the package cannot tell.
        unknown_score: above `unknown_threshold` for unknown images; None likewise.
        unknown_threshold: what 95 % of the validation images stay below; None likewise.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    path: str | None = None
    unknown: bool | None = None
    unknown_score: float | None = None
    unknown_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the graph gives for n images.

    Args:
        logits: float32 [n, classes].
        features: float32 [n, d].
        feature_map: float32 [n, c, h, w] of the first backbone, or None where its architecture has none.
    """

    logits: np.ndarray
    features: np.ndarray
    feature_map: np.ndarray | None


class Classifier:
    """A trained classifier; `load_classifier` makes one.

    Call it with an image, or several: `classifier("dog.jpg").label`, `classifier(["a.jpg", "b.jpg"])`.

    Attributes:
        classes: the class names, in the order of the logits.
        version: changes with whatever decides answers; see `version_of`.
        description: the content of `finepoint.json`.
        preprocessings: one for each backbone.
        temperature: what logits are divided by before the softmax.
        random_weights: whether a backbone was never trained, so that answers mean little.
        unknown: tells images of none of the classes, or None where the package does not say how.
        runtime: what computes.
    """

    def __init__(self, folder: Path, runtime: Runtime, description: dict[str, Any], version: str) -> None:
        self.folder = folder
        self.runtime = runtime
        self.description = description
        self.version = version
        self.classes: tuple[str, ...] = tuple(description["classes"])
        self.preprocessings = tuple(
            Preprocessing.from_json(backbone["preprocessing"]) for backbone in description["backbones"]
        )
        self.temperature = float(description["temperature"])
        self.unknown: UnknownDetector | None = load_unknown(folder, description)
        self.random_weights = any(backbone["weights_source"] == "random" for backbone in description["backbones"])

    def preprocess(self, data: bytes) -> list[np.ndarray]:
        """Return an image file's bytes as one uint8 [h, w, 3] crop for each backbone.

        Raises:
            DecodeError: the bytes are not an image that can be read whole.
        """
        return preprocess(data, self.preprocessings)

    def compute(self, crops: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the graph's outputs by name for uint8 crops [n, h, w, 3], one array for each backbone."""
        return self.runtime(crops, outputs)

    def logits(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 logits [n, classes] for uint8 crops [n, h, w, 3], one array for each backbone."""
        return self.runtime(crops, ["logits"])["logits"]

    def outputs(self, crops: Sequence[np.ndarray]) -> Outputs:
        """Return logits, features and feature map for uint8 crops [n, h, w, 3], one array for each backbone."""
        names = ["logits", "features"]
        shown = self.description["graph"]["outputs"]
        feature_map = next((name for name in ("feature_map", "feature_map_0") if name in shown), None)
        values = self.runtime(crops, [*names, feature_map] if feature_map else names)
        return Outputs(values["logits"], values["features"], values[feature_map] if feature_map else None)

    @property
    def needed(self) -> list[str]:
        """The graph's outputs that a prediction needs."""
        return ["logits"] if self.unknown is None else ["logits", "features"]

    def predictions(
        self, outputs: dict[str, np.ndarray], top: int | None, paths: Sequence[str | None]
    ) -> list[Prediction]:
        """Return the predictions that the graph's `needed` outputs [n, ...] stand for."""
        found = [
            prediction(self.classes, row, top, path)
            for row, path in zip(self.probabilities(outputs["logits"]), paths, strict=True)
        ]
        if self.unknown is None:
            return found
        judged = self.unknown.judge(outputs["features"], outputs["logits"])
        return [replace(one, **more) for one, more in zip(found, judged, strict=True)]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, float64 [n, classes], of logits [n, classes]."""
        scaled = np.asarray(logits, np.float64) / self.temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        values = np.exp(scaled)
        return np.asarray(values / values.sum(axis=1, keepdims=True))

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is also a sequence of strs
        self, images: Image, *, top: int | None = None, batch_size: int = 16
    ) -> Prediction: ...

    @overload
    def predict(self, images: Iterable[Image], *, top: int | None = None, batch_size: int = 16) -> list[Prediction]: ...

    def predict(
        self, images: Image | Iterable[Image], *, top: int | None = None, batch_size: int = 16
    ) -> Prediction | list[Prediction]:
        """Return the prediction for one image, or a list of them for several, in their order.

        Args:
            images: a path or an image file's bytes, or several of them.
            top: give only the so many most probable classes.
            batch_size: how many images are computed at once.

        Raises:
            DataError: a file is missing or is not an image that can be read whole.
        """
        if isinstance(images, (bytes, str, Path)):
            return self._predict_batch([images], top)[0]
        found: list[Prediction] = []
        batch: list[Image] = []
        for image in images:
            batch.append(image)
            if len(batch) == batch_size:
                found += self._predict_batch(batch, top)
                batch = []
        return found + (self._predict_batch(batch, top) if batch else [])

    __call__ = predict

    def _predict_batch(self, images: Sequence[Image], top: int | None) -> list[Prediction]:
        crops = [self._crops(image) for image in images]
        stacked = [np.stack(column) for column in zip(*crops, strict=True)]
        paths = [None if isinstance(image, bytes) else str(image) for image in images]
        return self.predictions(self.compute(stacked, self.needed), top, paths)

    def _crops(self, image: Image) -> list[np.ndarray]:
        if isinstance(image, bytes):
            return self.preprocess(image)
        try:
            return self.preprocess(Path(image).read_bytes())
        except OSError as error:
            raise DataError(f"{image} cannot be read: {error.strerror}") from error
        except DecodeError as error:
            raise DataError(f"{image} is not a usable image: {error}") from error


def prediction(
    classes: Sequence[str], probabilities: np.ndarray, top: int | None = None, path: str | None = None
) -> Prediction:
    """Return the prediction that a row of probabilities [classes] stands for.

    >>> prediction(["cat", "dog"], np.array([0.25, 0.75])).probabilities
    {'dog': 0.75, 'cat': 0.25}
    """
    order = np.argsort(-probabilities, kind="stable")
    named = {classes[index]: float(probabilities[index]) for index in order[:top]}
    best = int(order[0])
    return Prediction(classes[best], float(probabilities[best]), named, path)


def load_classifier(
    path: Path | str, *, runtime: str = "auto", threads: int = 0, throughput: bool = False, keep: bool = False
) -> Classifier:
    """Return the classifier in a package.

    Args:
        path: a `model.tar.gz`, its folder, or a run's folder.
        runtime: `openvino`, `onnxruntime`, `auto` (the first of these that is installed), `cuda` or `mps`.
        threads: CPU threads to compute with; 0 lets the runtime choose.
        throughput: made for many images at once, rather than for one answer soon.
        keep: in the cache what the runtime compiled, for the next start.

    Raises:
        PackageError: it is not a package, is damaged, or of a newer schema.
        ConfigurationError: the runtime is not installed.
    """
    path = Path(path)
    if (path / "model.tar.gz").is_file():
        path = path / "model.tar.gz"
    folder = open_package(path)
    description = read_description(folder)
    loaded = load_runtime(folder, description, runtime, threads=threads, throughput=throughput, keep=keep)
    return Classifier(folder, loaded, description, version_of(description))


def load_runtime(folder: Path, description: Mapping[str, Any], runtime: str = "auto", **options: Any) -> Runtime:
    """Return what computes the graph in a package's folder, in the precision that was evaluated.

    Args:
        folder: of the package.
        description: its `finepoint.json`.
        runtime: see `load_classifier`, and `options` as well.

    Raises:
        ConfigurationError: the runtime is not installed.
    """
    if runtime in ("cuda", "mps"):
        import importlib.util

        if importlib.util.find_spec("torch") is None:
            raise ConfigurationError(f"runtime {runtime!r} is torch's, which is not installed; `pip install torch`")
        from finepoint.models.torch_package import TorchPackage  # here, because it imports torch

        return TorchPackage(folder, description, runtime)
    return load_graph(folder / GRAPH, runtime, _usable(description["graph"]["precision"]), **options)


def _usable(precision: str) -> str:
    """Return the precision that was evaluated, or f32 where this CPU cannot compute in it fast.

    An int8 graph says itself which of its operations are; the others are f32.
    """
    if precision == "int8":
        return "f32"
    if precision == "bf16":
        from finepoint.models.runtimes import cpu_has_bf16

        return "bf16" if cpu_has_bf16() else "f32"
    return precision
