from __future__ import annotations

from pathlib import Path

import pytest

from finepoint.engines import binding, local
from finepoint.engines.binding import literals
from finepoint.engines.local import execute
from finepoint.engines.spec import JobSpec
from finepoint.errors import ConfigurationError

PYTHON = '''"""Writes to /opt/ml/model."""
import os
# /opt/ml/checkpoints
MODEL = os.environ.get("SM_MODEL_DIR", "/opt/ml/model")
parser.add_argument("--train", default=os.getenv("SM_CHANNEL_TRAIN", "/opt/ml/input/data/train"))
CHECKPOINTS = "/opt/ml/checkpoints"
BASE = os.environ.get("BASE", f"/opt/ml/{1}")
OTHER = "/opt/mlflow"
'''
SHELL = """#!/bin/sh
# /opt/ml/model
cp a ${SM_MODEL_DIR:-/opt/ml/model}
cp a /opt/ml/output  # there
"""


def test_uses_are_told_from_comments_and_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PYTHON)
    (tmp_path / "a.sh").write_text(SHELL)
    assert [line for line, _ in literals(tmp_path / "a.py")] == [6, 7]
    assert literals(tmp_path / "a.sh") == [(4, "cp a /opt/ml/output  # there")]


def test_where_nothing_can_be_bound_literal_paths_are_refused_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "train.py").write_text("import sub.a")
    (source / "sub" / "a.py").write_text('\nopen("/opt/ml/model/x", "w")\n')
    for module in (binding, local):
        monkeypatch.setattr(module, "why_not_bindable", lambda: "as a test says")
    spec = JobSpec("job", entry_point="train.py", source_dir=str(source), hyperparameters={"out": "/opt/ml/model"})
    with pytest.raises(ConfigurationError) as caught:
        execute(tmp_path / "job", spec)
    assert 'sub/a.py:2: open("/opt/ml/model/x", "w")' in str(caught.value)
    assert "hyperparameter out: /opt/ml/model" in str(caught.value)
    assert "as a test says" in str(caught.value)
    assert not (tmp_path / "job").exists()


def test_without_literal_paths_a_job_runs_where_nothing_can_be_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("import os; print(os.environ['MASTER_ADDR'])")
    for module in (binding, local):
        monkeypatch.setattr(module, "why_not_bindable", lambda: "as a test says")
    result = execute(tmp_path / "job", JobSpec("job", entry_point="train.py", source_dir=str(tmp_path / "train.py")))
    assert result.status == "Completed"
