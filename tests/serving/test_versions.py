"""A model's version changes with whatever decides its answers, and with nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finepoint.files import write_json
from finepoint.serving.versions import package_version

DESCRIPTION: dict[str, Any] = {
    "schema_version": 1,
    "handler": "builtin",
    "classes": ["a", "b"],
    "temperature": 1.0,
    "backbones": [{"name": "x", "preprocessing": {"height": 8}}],
    "graph": {"sha256": "0" * 64},
    "metrics": {"valid": {"loss": 1.0}},
    "versions": {"torch": "2.6"},
}


def version(folder: Path, **changed: Any) -> str:
    write_json(folder / "finepoint.json", {**json.loads(json.dumps(DESCRIPTION)), **changed})
    return package_version(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 1.5},
        {"classes": ["b", "a"]},
        {"backbones": [{"name": "x", "preprocessing": {"height": 9}}]},
        {"graph": {"sha256": "1" * 64}},
    ],
)
def test_what_decides_answers_changes_the_version(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert version(tmp_path, **changed) != version(tmp_path)


def test_what_is_said_about_the_model_does_not(tmp_path: Path) -> None:
    assert version(tmp_path, metrics={}, versions={}, provenance={"seed": 1}) == version(tmp_path)


def test_a_handler_with_other_weights_is_another_version(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text("def model_fn(folder): ...")
    (tmp_path / "model.pth").write_bytes(b"1")
    before = package_version(tmp_path)
    (tmp_path / "model.pth").write_bytes(b"2")
    assert package_version(tmp_path) != before
