"""Running whole commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Finepoint = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-c", "from finepoint.cli import main; main()"]


@pytest.fixture(scope="session")
def finepoint(tmp_path_factory: pytest.TempPathFactory) -> Finepoint:
    """Run a command line; the exit code is checked, and no traceback may show."""
    runs = tmp_path_factory.mktemp("runs")

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {"FINEPOINT_RUNS": str(runs), **os.environ}
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=600
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done

    run.runs = runs  # type: ignore[attr-defined]
    return run


def value_of(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON that a command printed; nothing else may be on standard output."""
    return json.loads(done.stdout)


def runs_of(finepoint: Finepoint) -> Path:
    """Return the folder of the session's runs."""
    path: Path = finepoint.runs  # type: ignore[attr-defined]
    return path
