"""The profiler in a run: a sampler beside all of its processes, and what its rules say at the end."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from finepoint.files import read_json
from finepoint.profiler.context import FOLDER_VARIABLE, profiled
from finepoint.profiler.finishing import SUMMARY_FILE, finish
from finepoint.profiler.recording import OUTPUT
from finepoint.profiler.sampling import sampled
from finepoint.runs.folder import RunFolder
from finepoint.runs.listener import Listener


class RunProfile:
    """Profiles a run while the block runs, from this process downwards.

    A profile is a guest: what befalls it is noted, and the run goes on without it.

    Args:
        folder: the run's; None profiles nothing.
        listener: is told where nothing can be profiled.
    """

    def __init__(self, folder: RunFolder | None = None, listener: Listener | None = None) -> None:
        self._output = None if folder is None else folder.path / OUTPUT
        self._listener = listener or Listener()
        self._stack = ExitStack()
        self._code = 0

    def __enter__(self) -> RunProfile:
        if self._output is not None:
            try:
                sampler = self._stack.enter_context(sampled(self._output, os.getpid()))
                self._stack.callback(lambda: sampler.ended(self._code))
                self._stack.enter_context(profiled(self._output))
            except OSError as error:
                self._listener.note(f"The run is not profiled: {error}")
                self._output = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._code = 0 if kind is None else 1
        self._stack.close()

    def environment(self) -> dict[str, str]:
        """Return the variables of a job's process that is to record what it does."""
        return {} if self._output is None else {FOLDER_VARIABLE: str(self._output.resolve())}

    def judge(self) -> None:
        """End the recording and judge it; leave what the summary and the report show."""
        if self._output is None:
            return
        self._stack.close()
        try:
            finish(self._output.parent)
        except Exception as error:  # noqa: BLE001 - a run that is done must not fail for want of its profile
            self._listener.note(f"The run's profile could not be judged: {error}")


def profiler_summary(folder: RunFolder) -> dict[str, Any] | None:
    """Return the `profiler` object of `summary.json`; None where the run was not profiled."""
    path: Path = folder.path / OUTPUT / SUMMARY_FILE
    return dict(read_json(path)) if path.is_file() else None
