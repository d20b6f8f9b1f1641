"""A model and the script that serves it, in one archive, as SageMaker's SDK packs them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from finepoint.data.extracting import extract
from finepoint.errors import ConfigurationError, DataError
from finepoint.models.package import PACKAGE_LIMITS, pack

_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git", "*.pyc")


def pack_with_script(model: Path, entry_point: str, source_dir: Path | None, target: Path) -> Path:
    """Write a model.tar.gz with a script in its `code/inference.py`, and return it.

    Args:
        model: the model.tar.gz; a `code/` that it has already is replaced.
        entry_point: script with `model_fn` and perhaps `input_fn`, `predict_fn`, `output_fn`; relative to
        source_dir: the folder that comes along; None lets the script come alone.
        target: the archive to write.

    Raises:
        ConfigurationError: model or script are missing, or the archive is unsafe.
    """
    script = (source_dir / entry_point) if source_dir else Path(entry_point)
    mistakes = [f"{path} does not exist" for path in (model, script) if not path.is_file()]
    if mistakes:
        raise ConfigurationError(mistakes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        try:
            extract(model, folder, PACKAGE_LIMITS)
        except DataError as error:
            raise ConfigurationError(f"{model} is no usable model.tar.gz: {error}") from error
        code = folder / "code"
        shutil.rmtree(code, ignore_errors=True)
        if source_dir:
            shutil.copytree(source_dir, code, ignore=_LEFT_OUT)
        else:
            code.mkdir()
        shutil.copy2(script, code / "inference.py")
        pack(folder, target)
    return target
