"""A script in a container elsewhere, recorded: `python -m finepoint.engines.recorded ARGUMENTS...` in its folder.

The container starts this in the script's place. Recordings go below the checkpoints, which the platform copies to S3
while the job runs, and so they arrive before it has ended. The rules follow the script there as they do here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finepoint.engines.debugging import debug_environment, judged_live
from finepoint.engines.encoding import OBJECTIVE
from finepoint.engines.profiling import Sampling, profiled_environment
from finepoint.engines.spec import TORCH_DISTRIBUTED, JobSpec
from finepoint.errors import ConfigurationError
from finepoint.files import read_json, write_bytes
from finepoint.training.environment import base_dir

CONFIGURATION = "finepoint_recording.json"
# What of the recordings lies below the checkpoints, named as in a job's folder.
PARTS = ("debug-output", "profiler-output")
# In them: why a rule ended the script.
STOPPED = Path("debug-output/stopped.txt")
# SageMaker gives a training job so long between SIGTERM and SIGKILL.
_GRACE_SECONDS = 120.0


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


def recordings_below(hyperparameters: Mapping[str, Any], job: str) -> str:
    """Return the folder below the checkpoints that a job's recordings are in, "" for the checkpoints' own.

    A trial of AWS's tuner has one of its own, as trials may share their checkpoints.

    Args:
        hyperparameters: as the container has them in `hyperparameters.json`.
        job: its name in AWS.

    >>> recordings_below({"lr": "0.1"}, "a-1"), recordings_below({"_tuning_objective_metric": '"loss"'}, "a-1")
    ('', 'a-1')
    """
    return job if OBJECTIVE in hyperparameters else ""


def run(configuration: Mapping[str, Any], arguments: list[str], folder: Path) -> int:
    """Run the script with what records it around it, and return its exit code; 0 where a rule ended it.

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
    stopped: list[str] = []
    with Sampling(folder, configuration["profiler"], _say) as sampling:
        process = subprocess.Popen(command, env=environment)
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        sampling.begin(process.pid)
        killing = threading.Timer(_GRACE_SECONDS, process.kill)

        def stop(reason: str) -> None:
            if not stopped and process.poll() is None:
                stopped.append(reason)
                process.terminate()
                killing.start()

        with judged_live(folder, configuration["debugger"], _say, stop):
            code = process.wait()
            killing.cancel()
        sampling.end(code)
    if stopped:
        write_bytes(folder / STOPPED, stopped[0].encode())
        return 0
    return code if code >= 0 else 128 - code


def main() -> int:
    """Run the script of the folder that this is started in."""
    hyperparameters = read_json(base_dir() / "input" / "config" / "hyperparameters.json")
    below = recordings_below(hyperparameters, os.environ.get("TRAINING_JOB_NAME", ""))
    return run(read_json(Path(CONFIGURATION)), sys.argv[1:], base_dir() / "checkpoints" / below)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
