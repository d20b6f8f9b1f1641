"""A tenth of the catalogue of faults, on every change; benchmarks/diagnosis.py runs all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "diagnosis.py"


@pytest.mark.slow
def test_rules_name_planted_faults_and_leave_healthy_trainings_alone() -> None:
    command = [sys.executable, str(BENCHMARK), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = {goal["name"]: goal["value"] for goal in json.loads(done.stdout)["goals"]}
    # One run of each of fifty faults: each miss weighs two percent, so the floors are below the benchmark's goals.
    assert figures["healthy run x rule left alone, percent"] >= 99
    assert figures["faults caught, percent"] >= 88
    assert figures["named within the first epoch, percent"] >= 85
