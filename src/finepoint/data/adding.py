"""Bringing captured images back into a data set: first into folders to look through, then into the data set.

An endpoint that captures images keeps them with its answers, in JSON lines. They become a folder for each answer, so
that a person can move what lies in the wrong one and delete what is of no class; what is left is added to the data set.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finepoint.data.decoding import content_type
from finepoint.data.finding import images_below
from finepoint.errors import DataError
from finepoint.files import sha256_of, write_bytes

_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "gif": ".gif", "bmp": ".bmp", "webp": ".webp"}
UNSORTED = "unsorted"


@dataclass
class Added:
    """What came of adding images.

    Args:
        folder: that they were added to.
        images: how many were written, for each class.
        known: how many were there already.
        left_out: how many were not written, by the reason.
    """

    folder: Path
    images: Counter[str] = field(default_factory=Counter)
    known: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def is_capture(path: Path) -> bool:
    """Return whether a path is a captured file, or a folder of them."""
    return path.suffix == ".jsonl" if path.is_file() else next(path.rglob("*.jsonl"), None) is not None


def sort_captured(capture: Path, target: Path, *, unsure_below: float = 1.0) -> Added:
    """Write captured images into a folder for each answer; the names of unknown ones begin with `unknown-`.

    Args:
        capture: a file of JSON lines, or a folder of them.
        target: a folder to look through; made if need be.
        unsure_below: only images answered with a lower probability, or as unknown.

    Raises:
        DataError: nothing was captured there, or only answers without images.
    """
    added = Added(target)
    for event in _events(capture, added):
        image, answer = _image(event), _answer(event)
        if image is None or answer is None:
            added.left_out["without an image file and its one answer; capture with --capture-images"] += 1
            continue
        unknown = answer.get("unknown") is True
        if answer["probability"] >= unsure_below and not unknown and unsure_below < 1:
            added.left_out[f"sure: {100 * unsure_below:g} % or more"] += 1
            continue
        digest = hashlib.sha256(image).hexdigest()
        folder = answer["label"] if _is_folder_name(answer["label"]) else UNSORTED
        suffix = _SUFFIXES.get(content_type(image).removeprefix("image/"), ".img")
        _write(added, folder, f"{'unknown-' if unknown else ''}{digest[:16]}{suffix}", image)
    if not added.images and not added.known and not any(key.startswith("sure") for key in added.left_out):
        reasons = "".join(f"; {count} {reason}" for reason, count in added.left_out.items())
        raise DataError(f"{capture}: no captured images{reasons or '; it holds no .jsonl files with requests'}")
    return added


def add_reviewed(source: Path, dataset: Path, *, new_classes: bool = False) -> Added:
    """Copy images from class folders that were looked through into a data set, or into its `train/` where it has one.

    Args:
        source: a folder of class folders.
        dataset: a folder of class folders, or of splits.
        new_classes: classes that the data set does not have may be added.

    Raises:
        DataError: there is nothing to add, or a class is new.
    """
    target = dataset / "train" if (dataset / "train").is_dir() else dataset
    if not target.is_dir():
        raise DataError(f"{dataset} is not a folder; give the data set's")
    files = [path for path in images_below(source) if path.parent.parent == source]
    if not files:
        raise DataError(f"{source} holds neither captured requests (.jsonl) nor class folders with images")
    strange = sorted({path.parent.name for path in files if not (target / path.parent.name).is_dir()})
    if strange and not new_classes:
        raise DataError(
            f"{target} has no class {', '.join(map(repr, strange[:5]))}; move the images to another folder, "
            "or give --new-classes"
        )
    added = Added(target)
    there = {sha256_of(path) for path in images_below(dataset)}
    for path in files:
        if sha256_of(path) in there:
            added.known += 1
            continue
        _write(added, path.parent.name, f"captured-{path.name.removeprefix('unknown-')}", path.read_bytes())
    return added


def _write(added: Added, folder: str, name: str, image: bytes) -> None:
    path = added.folder / folder / name
    if path.exists():
        added.known += 1
    else:
        write_bytes(path, image)
        added.images[folder] += 1


def _events(capture: Path, added: Added) -> Iterator[Mapping[str, Any]]:
    files = [capture] if capture.is_file() else sorted(capture.rglob("*.jsonl"))
    for path in files:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    event = json.loads(line)["captureData"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    added.left_out["a line that is no captured request"] += 1
                    continue
                if isinstance(event, Mapping):
                    yield event


def _image(event: Mapping[str, Any]) -> bytes | None:
    """Return the image file that was asked about, if it was captured and is the whole request."""
    try:
        asked = event["endpointInput"]
        image = asked["observedContentType"].startswith(("image/", "application/octet"))
        return base64.b64decode(asked["data"], validate=True) if image and asked["encoding"] == "BASE64" else None
    except (TypeError, KeyError, AttributeError, ValueError, binascii.Error):
        return None


def _answer(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer, if it is JSON about one image."""
    try:
        answer = json.loads(event["endpointOutput"]["data"])
        if isinstance(answer["label"], str) and isinstance(answer["probability"], (int, float)):
            return dict(answer)
    except (TypeError, KeyError, ValueError, RecursionError):
        pass
    return None


def _is_folder_name(label: str) -> bool:
    """Return whether a class's name can be a folder's: captured answers may say anything."""
    return bool(label) and label.isprintable() and not label.startswith(".") and not set(label) & set("/\\")
