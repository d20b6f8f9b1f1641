"""Finding labelled images: folders of class folders, with or without splits, or a manifest file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finepoint.data.dataset import LabelledImage, SkippedImage, is_text
from finepoint.data.manifests import MANIFEST_NAME, read_manifest
from finepoint.errors import DataError
from finepoint.files import exists

# Names that mean a split; SageMaker users and fastai users write them differently.
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "validate": "valid",
    "test": "test",
}
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".jp2",
        ".ico",
        ".tga",
        ".avif",
        ".heic",
        ".heif",
    ]
)
# Left behind by tools; never classes, never worth a word.
_STRAY = frozenset(
    {"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini", "lost+found", "@eaDir", ".ipynb_checkpoints", ".git"}
)


@dataclass(frozen=True)
class FoundImages:
    """What a path holds, before any file was opened.

    Args:
        root: what relative paths begin at.
        classes: class names, sorted.
        images: files that may be images.
        skipped: files that are not, by their names.
        ignored: folders that a user might take for classes, each with why it is none: it is hidden, has no images,
            stands beside the splits, or is a link in a circle.
        has_splits: whether the user divided the images (at least `train`).
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    skipped: tuple[SkippedImage, ...]
    ignored: tuple[str, ...]
    has_splits: bool


def find_images(path: Path) -> FoundImages:
    """Return the labelled images at `path`.

    Args:
        path: a folder with `train/`, `valid/` (or `val`, `validation`, `validate`) and perhaps `test/`, each of
            class folders; or one folder of class folders; or a CSV or JSON-lines manifest; or a folder with
            a `manifest.jsonl`.

    Raises:
        DataError: there is nothing there, or nothing that is laid out like labelled images.
    """
    if not exists(path):
        raise DataError(f"{path}: there is no such folder or file; give a folder of class folders or a manifest")
    if path.is_file():
        return _from_manifest(path)
    path = path.resolve()
    if not is_text(str(path)):
        raise DataError(f"{path}: the folder's name is not UTF-8 text; rename it")
    if (path / MANIFEST_NAME).is_file():
        return _from_manifest(path / MANIFEST_NAME)
    try:
        return _from_folders(path)
    except PermissionError as error:
        raise _unreadable(error) from error


def images_below(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted, whatever its layout; hidden and stray ones are left out.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        found = [folder / name for name in _files_below(folder, "", [])]
    except PermissionError as error:
        raise _unreadable(error) from error
    return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)


def _unreadable(error: PermissionError) -> DataError:
    return DataError(f"{error.filename} cannot be read: permission denied; change it with chmod")


def _from_manifest(path: Path) -> FoundImages:
    images = read_manifest(path)
    classes = tuple(sorted({image.label for image in images}))
    has_splits = any(image.split == "train" for image in images)
    return FoundImages(path.resolve().parent, classes, images, (), (), has_splits)


def _from_folders(root: Path) -> FoundImages:
    folders, loose, hidden = _entries(root)
    ignored = [f"{name}/ (hidden)" for name in hidden]
    splits: dict[str, list[str]] = {}
    for name in folders:
        if (split := SPLIT_NAMES.get(name.lower())) is not None:
            splits.setdefault(split, []).append(name)
    if "train" in splits and _holds_classes(root, splits["train"], others=len(folders) - 1):
        _check_splits(root, splits)
        ignored += [f"{name}/ (not a split)" for name in folders if SPLIT_NAMES.get(name.lower()) is None]
        parts = [(root / names[0], names[0], split) for split, names in sorted(splits.items())]
    elif splits and len(splits) == len(folders):
        given = ", ".join(name for names in splits.values() for name in names)
        raise DataError(f"{root} has {given} but no train/ folder; add one, or give one folder of class folders")
    else:
        parts = [(root, "", "")]
    images: list[LabelledImage] = []
    skipped = [SkippedImage(name, _not_an_image(name)) for name in loose]
    for folder, prefix, split in parts:
        _collect(folder, prefix, split, images, skipped, ignored)
    if not images:
        raise DataError(_nothing_found(root, loose))
    classes = tuple(sorted({image.label for image in images}))
    return FoundImages(root, classes, tuple(images), tuple(skipped), tuple(sorted(set(ignored))), bool(splits))


def _holds_classes(root: Path, names: list[str], others: int) -> bool:
    """Return whether `train` is a part with class folders in it, rather than a class of railway trains among others."""
    return others == 0 or any(_entries(root / name)[0] for name in names)


def _check_splits(root: Path, splits: Mapping[str, list[str]]) -> None:
    for names in splits.values():
        if len(names) > 1:
            raise DataError(f"{root} has {' and '.join(sorted(names))}, which mean the same split; keep one of them")


def _collect(
    folder: Path,
    prefix: str,
    split: str,
    images: list[LabelledImage],
    skipped: list[SkippedImage],
    ignored: list[str],
) -> None:
    labels, loose, hidden = _entries(folder)
    start = f"{prefix}/" if prefix else ""
    if prefix:
        ignored += [f"{start}{name}/ (hidden)" for name in hidden]
        skipped += [SkippedImage(f"{start}{name}", "lies outside of the class folders") for name in loose]
        if not labels:
            ignored.append(f"{start} (no class folders in it)")
    unusable = [label for label in labels if not label.strip() or not is_text(label)]
    if unusable:
        raise DataError(
            f"{folder} has class folders whose names are blank or not UTF-8 text: "
            f"{', '.join(map(repr, unusable[:5]))}; rename them"
        )
    for label in labels:
        before = len(images)
        for relative in _files_below(folder / label, f"{start}{label}", ignored):
            if not is_text(relative):
                skipped.append(SkippedImage(_as_text(relative), "its name is not UTF-8 text; rename it"))
            elif Path(relative).suffix.lower() in IMAGE_SUFFIXES:
                images.append(LabelledImage(relative, label, split))
            else:
                skipped.append(SkippedImage(relative, _not_an_image(relative)))
        if len(images) == before:
            ignored.append(f"{start}{label}/ (no images in it)")


def _files_below(folder: Path, relative: str, ignored: list[str]) -> Iterator[str]:
    """Yield the files below a class folder, sorted, following links to folders but never in a circle."""
    waiting, seen = [(folder, relative)], {folder.resolve(), *folder.resolve().parents}
    while waiting:
        current, name = waiting.pop()
        folders, files, hidden = _entries(current)
        start = f"{name}/" if name else ""
        ignored += [f"{start}{entry}/ (hidden)" for entry in hidden]
        yield from (f"{start}{entry}" for entry in files)
        for entry in reversed(folders):
            target = (current / entry).resolve()
            if target in seen:
                ignored.append(f"{start}{entry}/ (a link to a folder that was read already)")
            else:
                seen.add(target)
                waiting.append((current / entry, f"{start}{entry}"))


def _entries(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the sorted names of a folder's folders, files, and hidden folders; what tools leave behind is left out."""
    folders, files, hidden = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in _STRAY:
                continue
            if entry.name.startswith("."):
                hidden += [entry.name] if entry.is_dir() else []
            elif entry.is_dir():
                folders.append(entry.name)
            elif entry.name != MANIFEST_NAME:
                files.append(entry.name)
    return sorted(folders), sorted(files), sorted(hidden)


def _as_text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _not_an_image(name: str) -> str:
    suffix = Path(name).suffix
    if suffix.lower() in IMAGE_SUFFIXES:
        return "lies outside of the class folders"
    return f"not an image file ({suffix})" if suffix else "not an image file (no extension)"


def _nothing_found(root: Path, loose: list[str]) -> str:
    layout = "images belong in class folders: PATH/train/cat/1.jpg, or PATH/cat/1.jpg"
    pictures = sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in loose)
    if pictures:
        return f"{root} holds {pictures} images, but no class folders; {layout}, or give a CSV with path,label"
    return f"{root} holds no images in class folders; {layout}"
