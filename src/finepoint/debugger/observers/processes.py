"""Processes: which one this is."""

from __future__ import annotations

import os
import platform
import socket
import sys

import torch
from torch import distributed

from finepoint.debugger.recorder import Recorder


class Process:
    """Describes the process when it takes its first step."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        recorder.on_first_step.append(self._tell)

    def _tell(self) -> None:
        self._recorder.writer.settle_rank()
        self._recorder.writer.fact(
            "process",
            pid=os.getpid(),
            host=socket.gethostname(),
            argv=sys.argv,
            world_size=world_size(),
            torch=torch.__version__,
            python=platform.python_version(),
            device=_device(self._recorder),
        )


def _device(recorder: Recorder) -> str:
    return next((str(parameter.device) for _, parameter in recorder.names.parameters()), "cpu")


def rank() -> int:
    """Return this process's rank in a distributed job, 0 elsewhere."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes the job has, as far as this one knows."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))
