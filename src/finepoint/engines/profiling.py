"""The profiler in a script's job: a sampler beside it, step phases from within, and what its rules say at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.profiler.finishing import finish, write_job_summary
from finepoint.profiler.running import PROFILER_OUTPUT, profiler_environment
from finepoint.profiler.sampling import DEFAULT_INTERVAL_MS, SamplerHandle, check_interval, sampled


def profiler_configuration(*, interval_ms: int = DEFAULT_INTERVAL_MS, profile_steps: int = 0) -> dict[str, Any]:
    """Return a job's `profiler` configuration.

    Args:
        interval_ms: between two samples of the machine.
        profile_steps: under torch.profiler, after the warm-up; 0 for none.

    Raises:
        ConfigurationError: a number is out of its range; all mistakes are listed.
    """
    mistakes: list[str] = []
    try:
        check_interval(interval_ms)
    except ConfigurationError as error:
        mistakes += error.mistakes
    if profile_steps < 0:
        mistakes.append(f"profile_steps is {profile_steps}; it must be 0 (none) or more")
    if mistakes:
        raise ConfigurationError(mistakes)
    return {"interval_ms": interval_ms, "profile_steps": profile_steps}


def profiled_environment(base: dict[str, str], folder: Path, configuration: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a script's environment in which its step phases are recorded, where that is asked for."""
    if configuration is None:
        return base
    output = folder / PROFILER_OUTPUT
    output.mkdir(exist_ok=True)
    return profiler_environment(output, base, profile_steps=configuration["profile_steps"])


class Sampling:
    """Samples a job's process while the block runs, from when `begin` is called with its id.

    Args:
        folder: the job's.
        configuration: the job's; None samples nothing.
        say: is told where the sampler did not last.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any] | None, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._configuration = configuration
        self._stack = ExitStack()
        self._sampler: SamplerHandle | None = None

    def __enter__(self) -> Sampling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self, pid: int) -> None:
        """Begin to sample a process."""
        if self._configuration is not None:
            output, interval = self._folder / PROFILER_OUTPUT, self._configuration["interval_ms"]
            self._sampler = self._stack.enter_context(sampled(output, pid, interval_ms=interval))

    def end(self, exit_code: int) -> None:
        """Note how the process ended, and say so where it was not sampled to its end."""
        if self._sampler is not None and not self._sampler.ended(exit_code):
            self._say("note: the profiler's sampler was killed; from then on the profile lacks what the machine did")


def judge_profile(folder: Path, configuration: Mapping[str, Any] | None, say: Callable[[str], None]) -> dict[str, str]:
    """Judge what was recorded of a job that has ended; return the statuses of our rules by name."""
    if configuration is None:
        return {}
    try:
        judged = finish(folder)
    except NotFoundError as error:
        say(f"note: nothing was profiled: {error}")
        return {}
    write_job_summary(judged)
    for result in judged.findings:
        say(f"{result.rule}: {result.meaning} {result.remedy}".rstrip())
    return {result.rule: result.status for result in judged.own}
