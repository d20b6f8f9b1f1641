"""Names, steps, collections and values are those of smdebug 1.0.34, for the same script run under both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.debugger import scripts

_PINS = ("smdebug==1.0.34", "numpy<2.3", "protobuf==3.20.3", "pandas<3", "requests", "bokeh")


@pytest.fixture(scope="session")
def oracle() -> Path:
    """The python of an environment with the real smdebug, and this one's torch; built once and kept."""
    kept = os.environ.get("FINEPOINT_TEST_CACHE")
    place = Path(kept) if kept else Path(tempfile.gettempdir()) / f"finepoint-oracles-{os.getuid()}"
    python = place / "smdebug" / "bin" / "python"
    if not (place / "smdebug" / "ready").is_file():
        venv.create(place / "smdebug", with_pip=True, clear=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", *_PINS], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the real smdebug cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
        (place / "smdebug" / "ready").touch()
    (packages,) = (place / "smdebug" / "lib").glob("python*/site-packages")
    # Behind its own packages stand those of this environment, for torch; it need not be the one of the last time.
    (packages / "torch_of_ours.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return python


def _told(python: Path | str, script: Path, out: Path, how: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run([python, script, out, how], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(Path(f"{out}.told").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "all", "reduced", "modeless"])
def test_the_same_script_tells_the_same_under_both(oracle: Path, tmp_path: Path, how: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(scripts.SMDEBUG)
    theirs = _told(oracle, script, tmp_path / "theirs", how, {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"})
    import finepoint.debugger.compatibility as package

    ours = _told(sys.executable, script, tmp_path / "ours", how, {"PYTHONPATH": str(Path(package.__file__).parent)})
    assert Path(theirs["file"]).is_relative_to(oracle.parents[1])
    assert Path(ours["file"]).is_relative_to(Path(package.__file__).parent)
    assert (theirs["steps"], theirs["collections"]) == (ours["steps"], ours["collections"])
    assert list(theirs["told"]) == list(ours["told"]) and theirs["told"]
    for place, values in theirs["told"].items():
        np.testing.assert_allclose(ours["told"][place], values, rtol=1e-5, atol=1e-7, err_msg=place)
    if how == "file":
        assert len(ours["steps"]["TRAIN"]) == 11 and len(ours["steps"]["EVAL"]) == 21
