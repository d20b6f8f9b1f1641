"""Checking images before anything is trained on them: every file read once, decoded, hashed, compared."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from finepoint.data.dataset import SPLITS, DataSet, LabelledImage, Leak, SkippedImage
from finepoint.data.decoding import decode, probe
from finepoint.data.finding import FoundImages
from finepoint.data.splitting import split_images
from finepoint.errors import DataError, DecodeError
from finepoint.findings import Finding, Severity

Progress = Callable[[int, int], None]

_TINY_CLASS = 10
_IMBALANCE = 10.0
_SMALL_SIDE = 32
_EXAMPLES = 5


def check_images(
    found: FoundImages,
    *,
    seed: int = 0,
    test_fraction: float = 0.1,
    valid_fraction: float = 0.1,
    workers: int = 4,
    progress: Progress | None = None,
) -> DataSet:
    """Return the images that can be used, split, with everything that was noticed.

    Every file is read and decoded once (JPEGs at their smallest scale, which still reads all of the file).
    Of several copies of the same bytes in different splits only the one in the first of train, valid,
    test is kept: the evaluation must not meet what was trained on.

    Args:
        found: what `find_images` found.
        seed: of the split, where the user made none.
        test_fraction: of each class to set aside as test images, where there is no test part.
        valid_fraction: likewise for validation.
        workers: threads that decode.
        progress: called with (files done, files to do).

    Raises:
        DataError: too little is left to train on.
    """
    checked, skipped = _read_all(found, workers, progress)
    kept, leaks = _drop_copies(checked)
    split = split_images(kept, seed=seed, test_fraction=test_fraction, valid_fraction=valid_fraction)
    split, orphans = _without_orphans(split)
    classes = tuple(sorted({image.label for image in split}))
    untrained = [SkippedImage(image.path, f"class {image.label!r} has no training images") for image in orphans]
    all_skipped = tuple(sorted((*found.skipped, *skipped, *untrained), key=lambda image: image.path))
    data = DataSet(found.root, classes, split, all_skipped, leaks, (), seed)
    _require_enough(data, found)
    return replace(data, findings=tuple(_findings(data, found, checked, skipped, orphans)))


def _read_all(
    found: FoundImages, workers: int, progress: Progress | None
) -> tuple[list[LabelledImage], list[SkippedImage]]:
    checked: list[LabelledImage] = []
    skipped: list[SkippedImage] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
        results = pool.map(lambda image: _read(found.root, image), found.images, chunksize=1)
        for done, result in enumerate(results, 1):
            if isinstance(result, SkippedImage):
                skipped.append(result)
            else:
                checked.append(result)
            if progress is not None:
                progress(done, len(found.images))
    return checked, skipped


def _read(root: Path, image: LabelledImage) -> LabelledImage | SkippedImage:
    try:
        data = (root / image.path).read_bytes()
        _, width, height = probe(data) if data else ("", 0, 0)
        decode(data, min_side=1)
    except OSError as error:
        return SkippedImage(image.path, f"cannot be read: {error.strerror}")
    except DecodeError as error:
        return SkippedImage(image.path, str(error))
    return replace(image, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), width=width, height=height)


def _drop_copies(images: Sequence[LabelledImage]) -> tuple[list[LabelledImage], tuple[Leak, ...]]:
    """Keep, of the same bytes in several of the user's splits, the copies in the first of them."""
    rank = {split: number for number, split in enumerate(SPLITS)}
    first: dict[str, LabelledImage] = {}
    for image in images:
        other = first.get(image.sha256)
        if other is None or rank.get(image.split, 0) < rank.get(other.split, 0):
            first[image.sha256] = image
    kept, leaks = [], []
    for image in images:
        owner = first[image.sha256]
        if image.split == owner.split:
            kept.append(image)
        else:
            leaks.append(Leak(image.sha256, owner.path, owner.split, image.path, image.split))
    return kept, tuple(leaks)


def _without_orphans(images: Sequence[LabelledImage]) -> tuple[tuple[LabelledImage, ...], list[LabelledImage]]:
    """Take out validation and test images of classes that have no training image: nothing could learn them."""
    trained = {image.label for image in images if image.split == "train"}
    kept = tuple(image for image in images if image.label in trained)
    return kept, [image for image in images if image.label not in trained]


def _require_enough(data: DataSet, found: FoundImages) -> None:
    unreadable = len(found.images) - len(data.images) - len(data.leaks)
    if not data.images:
        first = "; ".join(f"{image.path}: {image.reason}" for image in data.skipped[:3])
        raise DataError(f"{found.root}: none of {len(found.images)} files is a usable image ({first})")
    if len(data.classes) < 2:
        raise DataError(
            f"{found.root} has images of only one class, {data.classes[0]!r}; a classifier needs at least two "
            f"({unreadable} files were not usable)"
        )
    counts = data.counts()
    for split in ("train", "valid"):
        if counts[split] == 0:
            raise DataError(
                f"{found.root}: no image is left for {'validation' if split == 'valid' else 'training'} "
                f"({len(data.images)} usable images in {len(data.classes)} classes); add images"
            )


def _findings(
    data: DataSet,
    found: FoundImages,
    checked: Sequence[LabelledImage],
    unreadable: Sequence[SkippedImage],
    orphans: Sequence[LabelledImage],
) -> list[Finding]:
    findings = [
        _listed(
            "UnreadableImages",
            "warning",
            [f"{image.path}: {image.reason}" for image in unreadable],
            "{n} [file|files] could not be read as images and [is|are] not used",
            "replace or delete them; `finepoint data check PATH` lists every one",
        ),
        _listed(
            "OtherFiles",
            "info",
            [image.path for image in found.skipped],
            "{n} [file is not an image and is|files are not images and are] not used",
            "nothing, unless images are among them",
        ),
        _listed(
            "SameImageInTwoSplits",
            "error",
            [f"{leak.dropped} = {leak.kept}" for leak in data.leaks],
            "{n} [image stands in two splits; the copy was|images stand in two splits; the copies were] kept out",
            "delete the copies from valid/ and test/",
        ),
        _listed(
            "UnusedFolders",
            "warning",
            found.ignored,
            "{n} [folder is|folders are] not used: {examples}",
            "rename or move what belongs to the images; nothing is read from these folders",
        ),
        _listed(
            "ClassWithoutImages",
            "error",
            [repr(name) for name in found.classes if name not in {*data.classes, *(image.label for image in orphans)}],
            "{n} [class has no usable image and is|classes have no usable image and are] not learned: {examples}",
            "add images of these classes, or remove the folders",
        ),
        _without_training(orphans, data.classes),
        _divided_groups(data),
        _contradictions(checked),
        _repeated(data),
        *_class_findings(data),
        _small(data),
    ]
    return [finding for finding in findings if finding is not None]


def _listed(name: str, severity: Severity, items: Sequence[str], message: str, remedy: str) -> Finding | None:
    if not items:
        return None
    evidence = {"count": len(items), "examples": list(items[:_EXAMPLES])}
    text = _agree(message, len(items)).format(n=len(items), examples=_some(items))
    return Finding(name, severity, text, evidence, remedy)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + rest


def _without_training(orphans: Sequence[LabelledImage], trained: Sequence[str]) -> Finding | None:
    """Name the classes of validation and test images that have no training image."""
    if not orphans:
        return None
    names = sorted({image.label for image in orphans})
    alike = {name.casefold(): name for name in trained}
    meant = [f"{name!r} is not {alike[name.casefold()]!r}" for name in names if name.casefold() in alike]
    return Finding(
        "ClassWithoutTraining",
        "error",
        _agree("{n} [image belongs|images belong] to classes without training images: {names}", len(orphans)).format(
            n=len(orphans), names=_some([*map(repr, names)])
        ),
        {"count": len(orphans), "classes": names},
        f"spell them alike: {_some(meant)}" if meant else "add training images of these classes, or remove the folders",
    )


def _agree(text: str, count: int) -> str:
    """Return text with each `[singular|plural]` replaced by what goes with a count."""
    return re.sub(r"\[([^|\]]*)\|([^\]]*)\]", r"\1" if count == 1 else r"\2", text)


def _divided_groups(data: DataSet) -> Finding | None:
    splits: dict[str, set[str]] = defaultdict(set)
    for image in data.images:
        if image.group:
            splits[image.group].add(image.split)
    return _listed(
        "GroupInTwoSplits",
        "warning",
        [group for group in sorted(splits) if len(splits[group]) > 1],
        "{n} [group stands|groups stand] in two of your splits: {examples}",
        "put each group into one split; what is learned of it in training makes the evaluation too good",
    )


def _contradictions(images: Sequence[LabelledImage]) -> Finding | None:
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    for image in images:
        labels[image.sha256].setdefault(image.label, image.path)
    clashes = [
        " = ".join(f"{path} ({label})" for label, path in paths.items()) for paths in labels.values() if len(paths) > 1
    ]
    return _listed(
        "ContradictoryLabels",
        "warning",
        clashes,
        "{n} [image appears|images appear] under two labels",
        "keep each under its right label",
    )


def _repeated(data: DataSet) -> Finding | None:
    copies = {key: count for key, count in Counter(image.sha256 for image in data.images).items() if count > 1}
    paths = [image.path for image in data.images if image.sha256 in copies]
    return _listed(
        "RepeatedImages",
        "info",
        paths,
        "{n} files are copies of each other within one split",
        "keep one of each",
    )


def _class_findings(data: DataSet) -> list[Finding]:
    counts = {name: split["train"] for name, split in data.class_counts().items()}
    found = []
    tiny = {name: count for name, count in counts.items() if count < _TINY_CLASS}
    if tiny:
        found.append(
            Finding(
                "TinyClass",
                "warning",
                _agree(f"{len(tiny)} [class has|classes have] fewer than {_TINY_CLASS} training images: ", len(tiny))
                + _some([*map(repr, tiny)]),
                tiny,
                "add images of these classes, or join them with others",
            )
        )
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[most] / counts[least] >= _IMBALANCE:
        found.append(
            Finding(
                "ClassImbalance",
                "warning",
                f"{most!r} has {counts[most] / counts[least]:.0f} times as many training images as {least!r}",
                {most: counts[most], least: counts[least]},
                "add images of the rare classes, or give --class-weights balanced",
            )
        )
    untested = [name for name, split in data.class_counts().items() if split["test"] == 0]
    if untested and data.counts()["test"]:
        found.append(
            Finding(
                "ClassNotTested",
                "warning",
                _agree(f"{len(untested)} [class has|classes have] no test image: ", len(untested))
                + _some([*map(repr, untested)]),
                {"classes": untested},
                "add images, so that the evaluation can say something about these classes",
            )
        )
    return found


def _small(data: DataSet) -> Finding | None:
    small = [f"{image.path}: {image.width} x {image.height}" for image in data.images if _is_small(image)]
    if len(small) * 20 < len(data.images) and small:
        return _listed(
            "TinyImages",
            "info",
            small,
            "{n} [image has|images have] a side under " + f"{_SMALL_SIDE} pixels",
            "check whether they show what they should",
        )
    return None


def _is_small(image: LabelledImage) -> bool:
    return min(image.width, image.height) < _SMALL_SIDE
