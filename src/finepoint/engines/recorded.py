"""A script in a container elsewhere, recorded: `python -m finepoint.engines.recorded ARGUMENTS...` in its folder.

The container starts this in the script's place. Recordings go below the checkpoints, which the platform copies to S3
while the job runs, and so they arrive before it has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finepoint.engines.debugging import debug_environment
from finepoint.engines.profiling import Sampling, profiled_environment
from finepoint.engines.spec import TORCH_DISTRIBUTED, JobSpec
from finepoint.errors import ConfigurationError
from finepoint.files import read_json
from finepoint.training.environment import base_dir

CONFIGURATION = "finepoint_recording.json"
# What of the recordings lies below the checkpoints, named as in a job's folder.
PARTS = ("debug-output", "profiler-output")


def is_recorded(spec: JobSpec) -> bool:
    """Return whether a script is to be recorded.

    Raises:
        ConfigurationError: it is of a kind that cannot be recorded in a container elsewhere.
    """
    if not spec.is_script or (spec.debugger is None and spec.profiler is None):
        return False
    if spec.distribution == TORCH_DISTRIBUTED or spec.resources.instance_count > 1:
        raise ConfigurationError("a job of several processes cannot be recorded in AWS yet")
    if not spec.entry_point.endswith(".py") or (Path(spec.source_dir) / "setup.py").is_file():
        raise ConfigurationError(f"only plain Python scripts can be recorded in AWS, not {spec.entry_point}")
    return True


def configuration_of(spec: JobSpec) -> dict[str, Any]:
    """Return what the container reads from `finepoint_recording.json`."""
    return {"entry_point": spec.entry_point, "debugger": spec.debugger, "profiler": spec.profiler}


def run(configuration: Mapping[str, Any], arguments: list[str], folder: Path) -> int:
    """Run the script with what records it around it, and return its exit code.

    Args:
        configuration: as `configuration_of` made it.
        arguments: of the script.
        folder: that `debug-output` and `profiler-output` are put into.
    """
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    environment = debug_environment(os.environ, folder, configuration["debugger"])
    environment = profiled_environment(environment, folder, configuration["profiler"])
    command = [sys.executable, "--", configuration["entry_point"], *arguments]
    with Sampling(folder, configuration["profiler"]) as sampling:
        process = subprocess.Popen(command, env=environment)
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        sampling.begin(process.pid)
        code = process.wait()
        sampling.end(code)
    return code if code >= 0 else 128 - code


def main() -> int:
    """Run the script of the folder that this is started in."""
    return run(read_json(Path(CONFIGURATION)), sys.argv[1:], base_dir() / "checkpoints")


if __name__ == "__main__":
    sys.exit(main())
