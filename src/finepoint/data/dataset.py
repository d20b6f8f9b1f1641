"""A checked and split set of labelled images: what `data.json` holds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finepoint.errors import DataError, InputError
from finepoint.files import read_json, write_json
from finepoint.findings import Finding

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image file and what is known of it.

    Args:
        path: relative to the data set's root where it lies below it (with `/`), else absolute.
        label: its class, as given.
        split: `train`, `valid`, `test`, or "" while it has none.
        group: images of one group (a patient, a product) are never divided between splits; "" is no group.
        sha256: of the file's bytes; "" before it was checked.
        bytes: the file's size.
        width: in pixels, as stored.
        height: in pixels, as stored.
    """

    path: str
    label: str
    split: str = ""
    group: str = ""
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0


def is_text(name: str) -> bool:
    """Return whether a name can be written as UTF-8: JSON, HTTP and HTML have no way to say one that cannot.

    >>> is_text("Zoë"), is_text("\\udcff")
    (True, False)
    """
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """A file that is not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Leak:
    """The same bytes in two splits: the copy in the later split is kept out of the evaluation.

    Args:
        sha256: of the bytes.
        kept: path of the copy that stays, and `kept_split` where it is.
        dropped: path of the copy that is not used, and `dropped_split` where it was.
    """

    sha256: str
    kept: str
    kept_split: str
    dropped: str
    dropped_split: str


@dataclass(frozen=True)
class DataSet:
    """Labelled images, checked and split.

    Args:
        root: what relative paths begin at.
        classes: the class names; their order is the order of every label index.
        images: the usable ones.
        skipped: the unusable files.
        leaks: copies kept out of the evaluation.
        findings: what was noticed.
        seed: of the split.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    skipped: tuple[SkippedImage, ...]
    leaks: tuple[Leak, ...]
    findings: tuple[Finding, ...]
    seed: int

    def part(self, split: str) -> tuple[LabelledImage, ...]:
        """Return the images of `train`, `valid` or `test`."""
        return tuple(image for image in self.images if image.split == split)

    def path_of(self, image: LabelledImage) -> Path:
        """Return where the image's file is."""
        return self.root / image.path

    def require_files(self, split: str) -> None:
        """Check that the files of a part are as they were when the data set was checked, by their sizes.

        Raises:
            DataError: files are gone or changed; the first are named.
        """
        lost = [image.path for image in self.part(split) if _size(self.path_of(image)) != image.bytes]
        if lost:
            names = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
            raise DataError(
                f"{self.root}: {len(lost)} of the {split} images are gone or changed since they were checked: {names}. "
                "Put them back, or give another --run to begin anew with what is there now."
            )

    def counts(self) -> dict[str, int]:
        """Return how many images each split has."""
        counted = Counter(image.split for image in self.images)
        return {split: counted[split] for split in SPLITS}

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Return how many images each class has in each split."""
        counted = Counter((image.label, image.split) for image in self.images)
        return {name: {split: counted[name, split] for split in SPLITS} for name in self.classes}

    def fingerprint(self) -> str:
        """Return a SHA-256 over classes and every image's bytes, label and split, whatever the files' names."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for line in sorted(f"{image.sha256} {image.split} {image.label}" for image in self.images):
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the content of `data.json`."""
        return {
            "schema_version": 1,
            "root": str(self.root),
            "seed": self.seed,
            "fingerprint": self.fingerprint(),
            "classes": list(self.classes),
            "counts": self.counts(),
            "images": [asdict(image) for image in self.images],
            "skipped": [asdict(image) for image in self.skipped],
            "leaks": [asdict(leak) for leak in self.leaks],
            "findings": [finding.to_json() for finding in self.findings],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataSet:
        """Return the data set that `to_json` wrote."""
        return cls(
            root=Path(value["root"]),
            classes=tuple(value["classes"]),
            images=tuple(LabelledImage(**image) for image in value["images"]),
            skipped=tuple(SkippedImage(**image) for image in value["skipped"]),
            leaks=tuple(Leak(**leak) for leak in value["leaks"]),
            findings=tuple(Finding.from_json(finding) for finding in value["findings"]),
            seed=value["seed"],
        )

    def save(self, path: Path) -> None:
        """Write `data.json`."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> DataSet:
        """Return the data set in a `data.json`.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            return cls.from_json(read_json(path))
        except (InputError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is missing or damaged ({error}); all else in the run was made from it: "
                f"delete {path.parent} to begin anew, or give another --run"
            ) from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
