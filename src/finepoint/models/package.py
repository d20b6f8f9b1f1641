"""The model package: a folder, and the `model.tar.gz` of it, that describes itself.

::

    finepoint.json           classes, backbones with their preprocessing, temperature, metrics, provenance
    model.onnx               raw RGB images to logits, features, feature maps
    backbones/0.safetensors  each backbone's tensors, named as its architecture names them
    head.safetensors         shift, scale, and each linear layer's weight and bias
    code/                    for other people's containers: inference.py, requirements.txt, the modules it needs

The same content gives the same bytes: entries are sorted, and times, owners and modes are fixed.
"""

from __future__ import annotations

import gzip
import math
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finepoint.data.extracting import Limits, extract
from finepoint.errors import DataError, PackageError
from finepoint.files import atomic_path, cache_dir, digest_of, read_json, sha256_of

SCHEMA_VERSION = 1
DESCRIPTION = "finepoint.json"
GRAPH = "model.onnx"
_PROGRAM = "inference.py"
# Of a package that may come from anywhere. Weights that were never trained may shrink to nothing: no ratio is refused.
PACKAGE_LIMITS = Limits(bytes=8 << 30, files=10_000, ratio=math.inf)
# What a description says about the model; all else in it decides answers.
_ABOUT = ("metrics", "provenance", "versions", "quantisation")


def pack(folder: Path, target: Path) -> str:
    """Write the package folder as a tar.gz to `target`, atomically, and return its SHA-256.

    >>> import tempfile; folder = Path(tempfile.mkdtemp()); _ = (folder / "a.txt").write_text("x")
    >>> pack(folder, folder.parent / "m.tar.gz") == pack(folder, folder.parent / "m.tar.gz")
    True
    """
    with (
        atomic_path(target) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=1) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode, entry.mtime = path.stat().st_size, 0o644, 0
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return sha256_of(target)


def open_package(path: Path, *, foreign: bool = False) -> Path:
    """Return the folder of a package: `path` itself if it is one, else the extracted archive in the cache.

    Args:
        path: a folder or an archive.
        foreign: one without our description will do where it has a handler (`handler_file`) of its own.

    Raises:
        PackageError: it is neither, is damaged, unsafe, or of a newer schema.
    """
    if path.is_dir():
        folder = path
    elif path.is_file():
        folder = cache_dir() / "packages" / sha256_of(path)
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _extract(path, folder, handler_file() if foreign else DESCRIPTION)
    else:
        raise PackageError(f"{path}: there is no such file or folder; give a model.tar.gz or a run")
    if not (foreign and (folder / handler_file()).is_file() and not (folder / DESCRIPTION).is_file()):
        read_description(folder)
    return folder


def read_description(folder: Path) -> dict[str, Any]:
    """Return a package's `finepoint.json`, checked.

    Raises:
        PackageError: it is missing, damaged, or of a newer schema than this version reads.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise PackageError(f"{folder} is not a model package: it has no {DESCRIPTION}")
    value = read_json(path)
    missing = [
        key
        for key in ("schema_version", "handler", "backbones", "classes", "temperature")
        if not isinstance(value, Mapping) or key not in value
    ]
    if missing:
        raise PackageError(f"{path} lacks {', '.join(missing)}; the package is damaged or was not made by finepoint")
    if value["schema_version"] > SCHEMA_VERSION:
        raise PackageError(
            f"{path} has schema version {value['schema_version']}, this finepoint reads up to {SCHEMA_VERSION}; "
            "upgrade with `pip install --upgrade finepoint`"
        )
    return dict(value)


def handler_file() -> str:
    """Return where a package's own handler lies: `code/inference.py`, or in `code/` what `$SAGEMAKER_PROGRAM` names."""
    return f"code/{os.environ.get('SAGEMAKER_PROGRAM') or _PROGRAM}"


def has_own_handler(folder: Path) -> bool:
    """Return whether serving the package in a folder means running its own handler.

    The `code/inference.py` of a package with the built-in handler is for other people's containers; another program
    that `$SAGEMAKER_PROGRAM` names is meant to run.
    """
    if not (folder / DESCRIPTION).is_file() or read_description(folder)["handler"] != "builtin":
        return True
    named = handler_file()
    return named != f"code/{_PROGRAM}" and (folder / named).is_file()


def version_of(description: Mapping[str, Any]) -> str:
    """Return a model's version: 12 digits of the SHA-256 of all that its description says of answers.

    The graph's hash is in it, and classes, temperature and preprocessing: another one of these is another model.

    >>> first = {"graph": {"sha256": "0"}, "temperature": 1.0, "metrics": {"valid": {}}}
    >>> [version_of(first) == version_of({**first, **other}) for other in ({"metrics": {}}, {"temperature": 2.0})]
    [True, False]
    """
    return digest_of({key: value for key, value in description.items() if key not in _ABOUT})[:12]


def _extract(archive: Path, folder: Path, other: str) -> None:
    with tempfile.TemporaryDirectory(prefix=".package.", dir=folder.parent) as name:
        temporary = Path(name) / "package"
        try:
            extract(archive, temporary, PACKAGE_LIMITS)
        except DataError as error:
            raise PackageError(str(error)) from error
        if not (temporary / DESCRIPTION).is_file() and not (temporary / other).is_file():
            raise PackageError(f"{archive} is not a model package: it has no {DESCRIPTION}")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
