"""Packages for tests of serving."""

from __future__ import annotations

from pathlib import Path


def handler(folder: Path, word: str) -> Path:
    """Make a package whose handler answers with a word, and return its folder."""
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text(
        f"def model_fn(folder): return {word!r}\n"
        "def transform_fn(model, data, content_type, accept): return model, 'text/plain'\n"
    )
    return folder
