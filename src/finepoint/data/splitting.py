"""Setting parts aside: seeded, stratified by class, never dividing a group, and stable as images are added."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from finepoint.data.dataset import LabelledImage


def split_images(
    images: Sequence[LabelledImage],
    *,
    seed: int,
    test_fraction: float = 0.1,
    valid_fraction: float = 0.1,
) -> tuple[LabelledImage, ...]:
    """Return the images with every split set.

    Parts that the user made stay as they are. A missing test part is taken from the training images, then a
    missing validation part. Units (groups, or single images by their bytes) are ordered by a hash of seed
    and identity, so that new images hardly move the old ones.

    Args:
        images: with `split` "" (divide freely), or `train`, `valid`, `test` where the user said so.
        seed: another seed sets other images aside.
        test_fraction: of each class's images, 0..1, where there is no test part.
        valid_fraction: likewise.
    """
    splits = [image.split for image in images]
    has_test, has_valid = "test" in splits, "valid" in splits
    splits = [split or "train" for split in splits]
    wanted = [("test", test_fraction)] if not has_test else []
    wanted += [("valid", valid_fraction)] if not has_valid else []
    total = len([split for split in splits if split == "train"])
    for part, fraction in wanted:
        _set_aside(images, splits, part, fraction, seed, total)
    return tuple(replace(image, split=split) for image, split in zip(images, splits, strict=True))


def _set_aside(
    images: Sequence[LabelledImage], splits: list[str], part: str, fraction: float, seed: int, total: int
) -> None:
    """Move units of training images to `part`, class by class, rarest class first, until each has its share."""
    units: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        # The same bytes are one unit: copies must not stand on both sides of a split.
        units[f"group {image.group}" if image.group else f"image {image.sha256 or image.path}"].append(index)
    free = {unit: members for unit, members in units.items() if all(splits[index] == "train" for index in members)}
    per_class: dict[str, list[str]] = defaultdict(list)
    size: dict[str, int] = defaultdict(int)
    for unit, members in free.items():
        for index in members:
            size[images[index].label] += 1
        for label in {images[index].label for index in members}:
            per_class[label].append(unit)
    taken: dict[str, int] = defaultdict(int)
    for label in sorted(per_class, key=lambda name: (size[name], name)):
        # The share is of all images of the class, whatever was set aside before.
        before = sum(
            images[index].label == label and splits[index] != "train" and part == "valid"
            for members in free.values()
            for index in members
        )
        target = round((size[label] + before) * fraction)
        if target == 0 and size[label] >= 3 and fraction > 0:
            target = 1
        left = size[label]
        for unit in sorted(per_class[label], key=lambda unit: _order(seed, part, unit)):
            members = free[unit]
            here = sum(images[index].label == label for index in members)
            if taken[label] >= target:
                break
            if splits[members[0]] != "train" or taken[label] + here > max(target, 1) * 1.5 or left - here < 1:
                continue
            for index in members:
                splits[index] = part
                taken[images[index].label] += 1
            left -= here


def _order(seed: int, part: str, unit: str) -> str:
    return hashlib.sha256(f"{seed} {part} {unit}".encode()).hexdigest()
