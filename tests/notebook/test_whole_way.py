"""The example notebook, executed cell by cell, as Jupyter would; and what the SDK's words do here."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_example_notebook_runs_from_the_first_cell_to_the_last(tmp_path: Path) -> None:
    notebook = json.loads((EXAMPLES / "reference_workflow.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    text = "\n\n".join(cells).replace('SOURCE = "code"', f"SOURCE = {str(EXAMPLES / 'code')!r}")
    environment = {**os.environ, "FINEPOINT_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Recorded, without effect on this machine: framework_version, instance_type, py_version, role" in done.stdout
    for rule in ("VanishingGradient", "Overfit", "PoorWeightInitialization"):
        statuses = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(f"{rule} ")]
        assert statuses and statuses[-1] in ("NoIssuesFound", "IssuesFound", "NotApplicable")
    assert next(
        iter((tmp_path / "runs").glob("colours-2*/rule-output/ProfilerReport/*/profiler-report.html"))
    ).is_file()
    probabilities, deleted = done.stdout.splitlines()[-2:]
    assert sum(ast.literal_eval(probabilities.removeprefix("probabilities "))[0]) == pytest.approx(1)
    assert deleted.startswith("deleted ")
    studies = list((tmp_path / "runs").glob("*/trials"))
    assert len(list(studies[0].iterdir())) == 4
