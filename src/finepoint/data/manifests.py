"""Manifests: a CSV or JSON-lines file that names images and their labels, `path,label[,split][,group]`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finepoint.data.dataset import LabelledImage, is_text
from finepoint.errors import DataError

MANIFEST_NAME = "manifest.jsonl"
_SHOWN = 20
_SPLITS = {
    "": "",
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "validate": "valid",
    "test": "test",
}


def read_manifest(path: Path) -> tuple[LabelledImage, ...]:
    """Return the images that a manifest names.

    Args:
        path: a `.csv` file with a header, or a `.jsonl` / `.ndjson` / `.json` file with an object a line. Paths are
            relative to the manifest's folder, or absolute.

    Raises:
        DataError: it cannot be read, or lines are wrong; the first 20 are listed with their numbers.
    """
    mistakes: list[str] = []
    images: list[LabelledImage] = []
    seen: dict[str, int] = {}
    for number, row in _rows(path, mistakes):
        problem = _problem(row)
        image_path = "" if problem else _find(path.parent, row["path"])
        if not problem and not image_path:
            problem = f"{row['path']!r}: there is no such file"
        if not problem and image_path in seen:
            problem = f"{image_path!r} is already on line {seen[image_path]}"
        if problem:
            mistakes.append(f"line {number}: {problem}")
            continue
        seen[image_path] = number
        images.append(
            LabelledImage(
                path=image_path,
                label=str(row["label"]),
                split=_SPLITS[str(row.get("split") or "").strip().lower()],
                group=str(row.get("group") or ""),
                sha256=_hash(row.get("sha256")),
            )
        )
    if mistakes:
        shown = "".join(f"\n  - {mistake}" for mistake in mistakes[:_SHOWN])
        rest = f"\n  ... and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else ""
        count = "a wrong line" if len(mistakes) == 1 else f"{len(mistakes)} wrong lines"
        raise DataError(f"{path} has {count}:{shown}{rest}")
    if not images:
        raise DataError(f"{path} names no images; it needs lines of path,label[,split][,group]")
    return tuple(images)


def write_manifest(folder: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write rows with `path` and `label` as a folder's manifest, atomically, and return its path."""
    from finepoint.files import write_bytes

    target = folder / MANIFEST_NAME
    write_bytes(target, "".join(json.dumps(dict(row)) + "\n" for row in rows).encode())
    return target


def _rows(path: Path, mistakes: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save the manifest as UTF-8") from error
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        yield from _csv_rows(path, text, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".jsonl", ".ndjson", ".json", ".manifest"):
        yield from _json_rows(text, mistakes)
    else:
        raise DataError(f"{path} is neither a folder nor a manifest; a manifest is a .csv or a .jsonl file")


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from _named_rows(path, reader)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + 1}: not a line of CSV ({error})") from error


def _named_rows(path: Path, reader: csv.DictReader[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    columns = [(name or "").strip().lower() for name in reader.fieldnames or []]
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(
            f"{path} lacks the column {' and '.join(missing)}; its first line must be path,label[,split][,group], "
            f"and is {','.join(columns) or 'empty'}"
        )
    reader.fieldnames = columns
    for row in reader:
        yield reader.line_num, row


def _json_rows(text: str, mistakes: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            mistakes.append(f"line {number}: not JSON")
            continue
        if isinstance(row, Mapping):
            yield number, row
        else:
            mistakes.append(f"line {number}: not a JSON object with path and label")


def _hash(value: object) -> str:
    """Return a row's `sha256` if it is one; finepoint writes it into the manifests of its own jobs."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else ""


def _find(folder: Path, given: str) -> str:
    """Return a row's path as given, without blanks around it, or with Windows's separators turned; "" if no file."""
    for path in (given, given.strip(), given.strip().replace("\\", "/")):
        try:
            if (folder / path).is_file():
                return Path(path).as_posix()  # `./a.png` and `a.png` are one file
        except (OSError, ValueError):
            continue  # no file system could have such a path
    return ""


def _problem(row: Mapping[str, Any]) -> str:
    path, label, split = row.get("path"), row.get("label"), row.get("split") or ""
    if not isinstance(path, str) or not path.strip():
        return "path is empty"
    if not isinstance(label, str | int) or not str(label).strip():
        return "label is empty"
    if not is_text(path + str(label)):
        return "path or label is not UTF-8 text"
    if str(split).strip().lower() not in _SPLITS:
        return f"split is {split!r}; it must be train, valid, test or empty"
    return ""
