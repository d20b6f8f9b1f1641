"""A model and the script that serves it, in one archive, as SageMaker's SDK packs them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from finepoint.data.extracting import extract
from finepoint.engines.environments import unmet
from finepoint.errors import ConfigurationError, DataError
from finepoint.models.package import PACKAGE_LIMITS, pack

_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git", "*.pyc")


def check_importable(source_dir: Path | None) -> None:
    """Check that what a handler's requirements.txt asks for is installed here, where the handler is to be served.

    Raises:
        ConfigurationError: it is not; containers in AWS install it, an endpoint on this machine does not.
    """
    if source_dir is not None and (missing := unmet(source_dir / "requirements.txt")):
        raise ConfigurationError(
            f"{source_dir / 'requirements.txt'} asks for what is not installed beside finepoint: {', '.join(missing)}. "
            "An endpoint on this machine downloads nothing; pip install it"
        )


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
