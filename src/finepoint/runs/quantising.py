"""A run's model in int8, kept only where that is faster and as good on validation images."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from finepoint.data.dataset import DataSet
from finepoint.errors import ConfigurationError, DataError, DecodeError
from finepoint.files import read_json, sha256_of, write_bytes, write_json
from finepoint.models.classifier import Classifier, load_classifier
from finepoint.models.package import DESCRIPTION, GRAPH, pack
from finepoint.models.quantising import quantise_graph
from finepoint.runs.folder import RunFolder, find_run

# As many as NNCF's own default; ranges of activations hardly move with more.
CALIBRATION_IMAGES = 300
_MAX_JUDGED = 2000
_BATCH = 8
# Below this a gain is within what one measurement differs from the next.
_MIN_SPEEDUP = 1.1
_ROUNDS = 20


@dataclass(frozen=True)
class Quantisation:
    """What int8 costs and gives.

    Args:
        precision_before: in which the run evaluated its model, `f32` or `bf16`.
        accuracy_before: in that, on validation images that the ranges were not set by.
        accuracy_int8: on the same.
        images: how many those are.
        calibration_images: by which the ranges were set, also of the validation part.
        max_drop: of accuracy that is allowed.
        speedup: images a second, over the model as it was, both in turn on this machine.
        unknown_kept_before: share of them that are not called unknown; None where the package cannot tell.
        unknown_kept_int8: likewise.
    """

    precision_before: str
    accuracy_before: float
    accuracy_int8: float
    images: int
    calibration_images: int
    max_drop: float
    speedup: float
    unknown_kept_before: float | None
    unknown_kept_int8: float | None

    @property
    def reason_against(self) -> str:
        """Why it is not to be kept, or "".

        >>> Quantisation("f32", 0.9, 0.88, 100, 50, 0.01, 1.5, None, None).reason_against
        'accuracy on 100 validation images falls from 0.900 to 0.880, by more than 0.01'
        """
        # Against the rounding of a difference of two shares.
        if self.accuracy_before - self.accuracy_int8 > self.max_drop + 1e-9:
            return (
                f"accuracy on {self.images} validation images falls from {self.accuracy_before:.3f} to "
                f"{self.accuracy_int8:.3f}, by more than {self.max_drop:g}"
            )
        if self.speedup < _MIN_SPEEDUP:
            return (
                f"it computes {self.speedup:.2f} times as many images a second here; {self.precision_before} is as good"
            )
        return ""


def quantise(run: str | Path, target: Path, *, max_drop: float = 0.01, directory: Path | None = None) -> Quantisation:
    """Write a run's model in int8 where it is worth it, and return what it costs and gives.

    Half of the validation images, at most `CALIBRATION_IMAGES`, set the ranges; the others judge. The run's summary and
    report say what came of it, also where nothing is kept.

    Args:
        run: a run, by name or path.
        target: the package to write; nothing is written where `reason_against` says why not.
        max_drop: of accuracy on validation images that is allowed, 0..1.
        directory: that holds runs.

    Raises:
        InputError: there is no such run, it has no package, or too few validation images can be read.
        ConfigurationError: NNCF is not installed, or the package is in int8 already.
    """
    if not 0 <= max_drop < 1:
        raise ConfigurationError(f"max_drop is {max_drop:g}; it must be from 0 to 1")
    folder = find_run(run, directory)
    classifier = load_classifier(folder.model)
    if classifier.description["graph"]["precision"] == "int8":
        raise ConfigurationError(f"{folder.model} is in int8 already")
    crops, labels = _images(DataSet.load(folder.data), classifier)
    count = min(CALIBRATION_IMAGES, len(labels) // 2)
    with tempfile.TemporaryDirectory() as name:
        package = Path(name) / "model"
        shutil.copytree(classifier.folder, package)
        write_bytes(package / GRAPH, quantise_graph(classifier.folder / GRAPH, [part[:count] for part in crops]))
        description = read_json(package / DESCRIPTION)
        description["graph"] |= {"precision": "int8", "sha256": sha256_of(package / GRAPH)}
        write_json(package / DESCRIPTION, description)
        found = _compared(classifier, load_classifier(package), crops, labels, count, max_drop)
        if not found.reason_against:
            write_json(package / DESCRIPTION, {**description, "quantisation": asdict(found)})
            pack(package, target)
    _tell(folder, found, target, classifier.description["graph"]["sha256"])
    return found


def _tell(folder: RunFolder, found: Quantisation, target: Path, graph: str) -> None:
    """Say in the run's summary and report what int8 costs and gives."""
    from finepoint.report.page import write_report

    reason = found.reason_against
    told = {**asdict(found), "kept": not reason, "reason_against": reason, "path": None if reason else str(target)}
    write_json(folder.quantisation, {**told, "graph_sha256": graph})  # of which graph, should the run train another
    if folder.summary.is_file():
        write_json(folder.summary, {**read_json(folder.summary), "quantisation": told})
        write_report(folder.path)


def _images(data: DataSet, classifier: Classifier) -> tuple[list[np.ndarray], np.ndarray]:
    """Return crops of validation images in a fixed, mixed order, one array for each backbone, and their classes."""
    data.require_files("valid")
    images = data.part("valid")
    crops, labels = [], []
    for index in np.random.default_rng(0).permutation(len(images))[:_MAX_JUDGED]:
        try:
            crops.append(classifier.preprocess(data.path_of(images[index]).read_bytes()))
        except DecodeError:
            continue  # the run's report lists it
        labels.append(classifier.classes.index(images[index].label))
    if len(labels) < 2:
        raise DataError(f"{data.root}: {len(labels)} validation images can be read; quantising needs two at least")
    return [np.stack(column) for column in zip(*crops, strict=True)], np.array(labels)


def _compared(
    before: Classifier, int8: Classifier, crops: list[np.ndarray], labels: np.ndarray, count: int, max_drop: float
) -> Quantisation:
    judging = [part[count:] for part in crops]
    (accuracy_before, kept_before), (accuracy_int8, kept_int8) = (
        _judged(classifier, judging, labels[count:]) for classifier in (before, int8)
    )
    seconds_before, seconds_int8 = _seconds([before, int8], [part[:_BATCH] for part in crops])
    return Quantisation(
        precision_before=before.description["graph"]["precision"],
        accuracy_before=accuracy_before,
        accuracy_int8=accuracy_int8,
        images=len(labels) - count,
        calibration_images=count,
        max_drop=max_drop,
        speedup=seconds_before / seconds_int8,
        unknown_kept_before=kept_before,
        unknown_kept_int8=kept_int8,
    )


def _judged(classifier: Classifier, crops: list[np.ndarray], labels: np.ndarray) -> tuple[float, float | None]:
    """Return the share of images that are classified right, and of those that are not called unknown."""
    outputs = _outputs(classifier, crops)
    right = float((outputs["logits"].argmax(1) == labels).mean())
    if classifier.unknown is None:
        return right, None
    scores = classifier.unknown.scores(outputs["features"], outputs["logits"])
    return right, float((scores <= classifier.unknown.threshold).mean())


def _outputs(classifier: Classifier, crops: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    parts = [
        classifier.compute([part[start : start + _BATCH] for part in crops], ["logits", "features"])
        for start in range(0, len(crops[0]), _BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _seconds(classifiers: Sequence[Classifier], crops: Sequence[np.ndarray]) -> list[float]:
    """Return each one's least seconds for a batch, measured in turn, so that the machine's moods meet all alike."""
    least = [float("inf")] * len(classifiers)
    for _ in range(_ROUNDS):
        for index, classifier in enumerate(classifiers):
            start = time.perf_counter()
            classifier.logits(crops)
            least[index] = min(least[index], time.perf_counter() - start)
    return least
