"""A tenth of benchmarks/fuzz.py, in each test run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_mutated_bodies_bring_neither_a_server_error_nor_a_hang_nor_a_leak() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--bodies", "10000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    goals = {goal["name"]: goal for goal in value["goals"]}
    for name in (
        "bodies answered",
        "share without a 5xx other than overload",
        "share without a hang or a cut connection",
        "memory in the first half over memory in the second",
        "healthy afterwards",
    ):
        assert goals[name]["met"], value["notes"]
    assert {row["status"] for row in value["rows"]} >= {200, 400}
