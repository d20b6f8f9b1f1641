"""Which score tells images of none of the classes best: energy, nearest neighbours, Mahalanobis, and others.

Two classes at a time are kept from the training of a head; every score is fitted on features of the training
images that are left, and its threshold set so that 95 % of the validation images are kept. Then test images of the
known classes meet those of the two left out (hard), digits, noise, textures, photographs of other things (easier).

    python benchmarks/unknown.py --data FOLDER [--others FOLDER] [--quick] [--json]

`--others` holds a folder of images for each further kind of unknown image.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from finepoint.data.digits import make_digits
from finepoint.data.finding import images_below
from finepoint.evaluation.calibration import softmax
from finepoint.evaluation.strangers import KINDS, strangers
from finepoint.evaluation.unknown import KEPT, auroc, fit_unknown, kept_threshold, with_threshold
from finepoint.files import sha256_of
from finepoint.models.backbones import resolve_backbones
from finepoint.models.choice import choose_runtime, open_runtime
from finepoint.models.graphs import HeadLayers
from finepoint.models.unknown import energy, unit_length
from finepoint.training.channels import Channel, FeatureCount, embed_channel, read_channel
from finepoint.training.features import ImageFile
from finepoint.training.hyperparameters import Hyperparameters
from finepoint.training.loop import TrainingData, train_head
from reporting import Goal, parser, report

_LAST = 1280  # EfficientNet-Lite0's last features come first
_OURS = "the same and energy (ours)"
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="a folder of class folders or of splits; digits by default")
    arguments.add_argument("--others", type=Path, help="a folder with a folder of images for each further kind")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        digits = make_digits(Path(name) / "digits")
        (backbone,) = resolve_backbones(["efficientnet_lite0"])
        choice = choose_runtime(backbone)

        def embedded(channel: Channel) -> tuple[np.ndarray, list[str]]:
            features, usable, _ = embed_channel(channel, [backbone], [choice], FeatureCount())
            return features, [channel.labels[index] for index in usable]

        features, names = embedded(read_channel(given.data or digits))
        kinds = _kinds(digits if given.data else None, given.others, embedded)
        runtime = open_runtime(backbone, choice)
        for kind in KINDS:
            crops = np.stack([backbone.preprocessing.apply(image) for image in strangers(kind)])
            kinds[kind] = runtime([crops], ["features"])["features"]
    classes, labels = np.unique(names, return_inverse=True)
    found: dict[str, dict[str, list[float]]] = {}
    pairs = [(place, (place + 1) % len(classes)) for place in range(0, len(classes), 2)]
    for seed in range(1 if given.quick else 3):
        for held in pairs[: 3 if given.quick else None]:
            _judge(features, labels, held, kinds, seed, found)
    rows = [
        {"score": score, **{key: f"{np.mean(values):.3f}" for key, values in parts.items()}}
        for score, parts in found.items()
    ]
    ours = found[_OURS]
    goals = [
        Goal("mean AUROC on images of other kinds", float(np.mean([ours[f"{kind} AUROC"] for kind in kinds])), 0.95),
        Goal("share of test images kept", float(np.mean(ours["kept"])), 0.93),
    ]
    notes = (
        f"{len(features)} images of {len(classes)} classes; unknown: "
        + ", ".join(f"{len(values)} {kind}" for kind, values in kinds.items())
        + f"; FA: share taken for known at a threshold that keeps {KEPT:.0%} of validation"
    )
    report("Telling unknown images", rows, goals, as_json=given.json, notes=notes)


def _kinds(
    digits: Path | None, others: Path | None, embedded: Callable[[Channel], tuple[np.ndarray, list[str]]]
) -> dict[str, np.ndarray]:
    kinds = {}
    if digits is not None:
        kinds["digits"] = embedded(read_channel(digits / "test"))[0]
    for folder in sorted(path for path in others.iterdir() if path.is_dir()) if others else ():
        files = [ImageFile(path, sha256_of(path)) for path in images_below(folder)]
        kinds[folder.name] = embedded(Channel(tuple(files), ("",) * len(files)))[0]
    return kinds


def _judge(
    features: np.ndarray,
    labels: np.ndarray,
    held: tuple[int, int],
    kinds: dict[str, np.ndarray],
    seed: int,
    found: dict[str, dict[str, list[float]]],
) -> None:
    """Add to `found` how each score does where two classes are kept from the training."""
    known = np.flatnonzero(~np.isin(labels, held))
    near = features[np.isin(labels, held)]
    targets = np.unique(labels[known], return_inverse=True)[1].astype(np.int64)
    rest, test = train_test_split(np.arange(len(known)), test_size=0.15, stratify=targets, random_state=seed)
    train, valid = train_test_split(rest, test_size=0.12, stratify=targets[rest], random_state=seed)
    values = features[known]
    data = TrainingData(
        values[train], targets[train], values[valid], targets[valid], int(targets.max()) + 1, (features.shape[1],)
    )
    head = train_head(data, Hyperparameters(seed=seed)).head.to_layers()
    for name, score in _scores(data, head).items():
        start = time.perf_counter()
        for row in values[test[:50]]:
            score(row[None], head.logits(row[None]))
        took = 1000 * (time.perf_counter() - start) / 50
        threshold = kept_threshold(score(data.valid, head.logits(data.valid)), KEPT)
        inside = score(values[test], head.logits(values[test]))
        parts = found.setdefault(name, {})
        parts.setdefault("ms", []).append(took)
        parts.setdefault("kept", []).append(float((inside <= threshold).mean()))
        for kind, outside in {"left out": near, **kinds}.items():
            strange = score(outside, head.logits(outside))
            parts.setdefault(f"{kind} AUROC", []).append(auroc(inside, strange))
            parts.setdefault(f"{kind} FA", []).append(float((strange <= threshold).mean()))


def _scores(data: TrainingData, head: HeadLayers) -> dict[str, Score]:
    """Return functions of features [n, d] and logits [n, classes] to a score that is high for unknown images."""
    last = (np.arange(data.train.shape[1]) < _LAST).astype(np.float32)
    ours = with_threshold(fit_unknown(data.train, last), data.valid, head.logits(data.valid))
    whole = fit_unknown(data.train)
    unit = unit_length(data.train, last)
    means = np.stack([data.train[data.train_labels == label].mean(0) for label in range(data.classes)])
    spread = np.cov((data.train - means[data.train_labels]).T.astype(np.float64))
    # A share of the mean variance on the diagonal: there are more features than images could say something of.
    shrunk = 0.9 * spread + 0.1 * np.eye(len(spread)) * np.trace(spread) / len(spread)
    root = np.linalg.cholesky(np.linalg.inv(shrunk)).astype(np.float32)
    middles = means @ root

    def neighbours(features: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.asarray(-np.partition(unit_length(features, last) @ unit.T, -3, axis=1)[:, -3])

    def mahalanobis(features: np.ndarray, _: np.ndarray) -> np.ndarray:
        placed = features @ root
        return np.asarray(((placed**2).sum(1)[:, None] - 2 * placed @ middles.T + (middles**2).sum(1)).min(1))

    return {
        "largest probability": lambda _, logits: -softmax(logits).max(1),
        "energy": lambda _, logits: energy(logits),
        "Mahalanobis": mahalanobis,
        "3rd neighbour": neighbours,
        "3rd neighbour, 128 directions, all features": lambda features, _: whole.distances(features),
        "3rd neighbour, 128 directions": lambda features, _: ours.distances(features),
        _OURS: ours.scores,
    }


if __name__ == "__main__":
    main()
