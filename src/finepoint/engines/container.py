"""The container contract: a job's folder, laid out as SageMaker's `/opt/ml`, and the variables its process finds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from finepoint.engines.spec import JobSpec
from finepoint.files import write_json
from finepoint.models.runtimes import cores

_HOST = "algo-1"


def lay_out(folder: Path, spec: JobSpec) -> None:
    """Make a job's folders and its `input/config` files; channels are linked, what is there of earlier is kept."""
    for name in ("input/config", "input/data", "checkpoints", "model", "output/data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    configuration = folder / "input" / "config"
    # SageMaker hands every hyperparameter over as a JSON-encoded string.
    encoded = {name: json.dumps(value) for name, value in spec.hyperparameters.items()}
    write_json(configuration / "hyperparameters.json", encoded)
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    write_json(configuration / "inputdataconfig.json", dict.fromkeys(spec.channels, channel))
    write_json(
        configuration / "resourceconfig.json",
        {"current_host": _HOST, "hosts": [_HOST], "network_interface_name": "lo"},
    )
    for name, path in spec.channels.items():
        link = folder / "input" / "data" / name
        if link.is_symlink() or link.exists():
            link.unlink()
        link.symlink_to(path.resolve(), target_is_directory=True)


def variables(folder: Path, spec: JobSpec) -> dict[str, str]:
    """Return the environment of the job's process: this one's, and the container's variables."""
    data = folder / "input" / "data"
    values: dict[str, Any] = {
        "SM_MODEL_DIR": folder / "model",
        "SM_INPUT_DIR": folder / "input",
        "SM_INPUT_CONFIG_DIR": folder / "input" / "config",
        "SM_OUTPUT_DIR": folder / "output",
        "SM_OUTPUT_DATA_DIR": folder / "output" / "data",
        "SM_CHANNELS": sorted(spec.channels),
        "SM_HPS": dict(spec.hyperparameters),
        "SM_NUM_CPUS": cores(),
        "SM_NUM_GPUS": _gpus(),
        "SM_HOSTS": [_HOST],
        "SM_CURRENT_HOST": _HOST,
        "SM_MODULE_NAME": spec.module,
        "SAGEMAKER_BASE_DIR": folder,
        "TRAINING_JOB_NAME": spec.name,
        "PYTHONUNBUFFERED": "1",
    }
    values |= {f"SM_CHANNEL_{name.upper()}": data / name for name in spec.channels}
    values |= {f"SM_HP_{name.upper()}": value for name, value in spec.hyperparameters.items()}
    return {**os.environ, **{name: _text(value) for name, value in values.items()}, **spec.environment}


def command(spec: JobSpec) -> list[str]:
    """Return the command line of the job's process."""
    return [sys.executable, "-m", spec.module]


def _text(value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value)


def _gpus() -> int:
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
