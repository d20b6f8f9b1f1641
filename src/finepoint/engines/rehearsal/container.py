"""One training container: a fresh `/opt/ml`, the official toolkit in a clean environment, one process to end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finepoint.engines.binding import launch, why_not_bindable
from finepoint.engines.rehearsal.environment import overlay, passed_on
from finepoint.files import write_json

_TRAIN = "from sagemaker_training.cli.train import main; main()"
GRACE_SECONDS = 120.0


class TrainingContainer:
    """The container of one try of a training job.

    Args:
        folder: a new folder, which becomes `/opt/ml` where this system lets a process have its own.
        request: as CreateTrainingJob got it.
        variables: of the platform: credentials, endpoint, region.
        on_line: is called with each line that it prints.
    """

    def __init__(
        self,
        folder: Path,
        request: Mapping[str, Any],
        variables: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.base = folder / "ml"
        self._request = request
        self._variables = variables
        self._on_line = on_line
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        for name in ("input/config", "input/data", "model", "output/data", "code", "checkpoints"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        self._write_config()

    @property
    def failure(self) -> str:
        """What the toolkit wrote of a failure."""
        path = self.base / "output" / "failure"
        return path.read_text(errors="replace") if path.is_file() else ""

    def start(self, toolkit: Path) -> None:
        """Start the official toolkit's `train`."""
        python = overlay(self.folder / "environment", toolkit)
        bound = not why_not_bindable()
        names = self.folder / "hosts"
        names.write_text("127.0.0.1 localhost algo-1\n")
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        place = {} if bound else {"SAGEMAKER_BASE_DIR": str(self.base), "SM_STUDIO_LOCAL_MODE": "true"}
        environment = {
            **passed_on(),
            "HOME": str(home),
            "PYTHONUNBUFFERED": "1",
            "TRAINING_JOB_NAME": self._request["TrainingJobName"],
            **self._variables,
            **place,
            **self._request.get("Environment", {}),
        }
        command = [str(python), "-c", _TRAIN]
        if bound:
            command = launch(command, folder=str(self.base), hosts=str(names))
        self._process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def poll(self, seconds: float) -> int | None:
        """Wait up to so many seconds for the end, and return the exit code, or None."""
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        assert self._reader is not None
        self._reader.join(5)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the container."""
        if self._process is not None and self._process.poll() is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return

    def remove(self) -> None:
        """End what still runs, and remove the folder."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            assert self._reader is not None and self._process.stdout is not None
            self._reader.join(5)
            self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self._on_line(line)

    def _write_config(self) -> None:
        config = self.base / "input" / "config"
        request = self._request
        kind = request["ResourceConfig"].get("InstanceType", "ml.m5.large")
        group = {"instance_group_name": "homogeneousCluster", "instance_type": kind, "hosts": ["algo-1"]}
        write_json(config / "hyperparameters.json", dict(request.get("HyperParameters", {})))
        write_json(
            config / "resourceconfig.json",
            {
                "current_host": "algo-1",
                "current_instance_type": kind,
                "current_group_name": "homogeneousCluster",
                "hosts": ["algo-1"],
                "instance_groups": [group],
                "network_interface_name": "lo",
            },
        )
        inputs = {
            channel["ChannelName"]: {
                "TrainingInputMode": channel.get("InputMode", request["AlgorithmSpecification"]["TrainingInputMode"]),
                "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                    "S3DataDistributionType", "FullyReplicated"
                ),
                "RecordWrapperType": "None",
            }
            for channel in request.get("InputDataConfig", ())
        }
        write_json(config / "inputdataconfig.json", inputs)
        for name, value in inputs.items():
            if value["TrainingInputMode"] != "Pipe":  # that is a file for each epoch
                (self.base / "input" / "data" / name).mkdir()
        (config / "init-config.json").write_text(json.dumps({}))
