"""Measuring advice: the same job again for a short window, once for each change that can be made from outside."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.attaching import environment_for
from finepoint.errors import ConfigurationError, InputError, JobError
from finepoint.files import read_json
from finepoint.profiler.checking import judge_own
from finepoint.profiler.ending import judge_ending
from finepoint.profiler.recording import ProfilerRecording, open_recording
from finepoint.profiler.running import why_no_steps

# Steps at the beginning of a window that are not counted: workers start and batches are prefetched in them.
_WARM_UP = 5
_APPLICABLE = ("num_workers", "batch_size", "threads", "memory_format", "precision", "draft_side")
# Losses that differ by less, relatively, come from another order of additions, not from another computation.
_CLOSE = 1e-3
_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Tried:
    """A change and what it gave.

    Args:
        name: in words, such as `num_workers=2`; `as it is` for none.
        seconds_per_step: on average in the window; None where the change could not be tried.
        predicted: how many times faster the loop was said to get; None where nobody said.
        measured: how many times faster a sample goes through a step.
        output: whether the losses of the window are equal, close, or differ; or why it could not be tried.
    """

    name: str
    seconds_per_step: float | None
    predicted: float | None
    measured: float | None
    output: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return asdict(self)


@dataclass(frozen=True)
class Command:
    """How a job's script is run once more.

    Args:
        arguments: the command line.
        working_directory: that it runs in.
        environment: of its process; None is this process's.
    """

    arguments: list[str]
    working_directory: str
    environment: dict[str, str] | None = None


# Makes a folder for one more run of a job, and returns how to run it there.
Again = Callable[[Path], Command]


def try_changes(job: Path, *, steps: int = 30, again: Again | None = None) -> list[Tried]:
    """Run a job's script for a window as it is, and then with each change in turn; return a row for each.

    Changes are those that findings name and that can be made from outside (workers, batch size, threads, memory format,
    precision, decoding JPEG files at a fraction of their size), and for a convolution network both formats.

    Args:
        job: a folder of `finepoint profile run`, or another one with `again`.
        steps: of each window.
        again: makes the job ready for one more run; by default the command of `finepoint profile run` is run as it was.

    Raises:
        NotFoundError: the job holds no recording.
        InputError: it was not started from a script.
        ConfigurationError: the window is too short.
        JobError: the script does not come to so many steps.
    """
    if steps < 2 * _WARM_UP:
        raise ConfigurationError(f"steps is {steps}; a window needs at least {2 * _WARM_UP}")
    recording = open_recording(job)
    again = again or _as_it_was(job)
    plain = _window(again, {}, steps)
    if isinstance(plain, str):
        raise JobError(f"the script could not be run again for {steps} steps: {plain}")
    rows = [Tried("as it is", _mean(plain), None, 1.0, "")]
    for change, predicted in candidates(recording):
        name = ", ".join(f"{key}={value}" for key, value in change.items())
        changed = _window(again, change, steps)
        if isinstance(changed, str):
            rows.append(Tried(name, None, predicted, None, changed))
            continue
        faster = (_mean(plain) / (plain["batch_size"] or 1)) / (_mean(changed) / (changed["batch_size"] or 1))
        rows.append(Tried(name, _mean(changed), predicted, round(faster, 3), compare_losses(plain, changed)))
    return rows


def candidates(recording: ProfilerRecording) -> list[tuple[dict[str, Any], float | None]]:
    """Return the changes that can be tried, each with what was predicted of it."""
    found: list[tuple[dict[str, Any], float | None]] = []
    for result in judge_own(recording):
        if not result.fired:
            continue
        changes = [(result.evidence.get("change"), result.evidence.get("predicted_speedup"))]
        changes += [(other["change"], other["predicted_speedup"]) for other in result.evidence.get("also", ())]
        found += [(dict(change), speedup) for change, speedup in changes if change and set(change) <= set(_APPLICABLE)]
    network = recording.network()
    if network is not None and network["convolutions"]:
        for more in ({"memory_format": "channels_last"}, {"precision": "bf16"}):
            known = any(more == change for change, _ in found)
            if not known and not (more.get("memory_format") and network["channels_last"]):
                found.append((dict(more), None))
    return found


def compare_losses(plain: dict[str, Any], changed: dict[str, Any]) -> str:
    """Return whether two windows computed the same.

    >>> compare_losses({"losses": [1.0, 0.5], "batch_size": 4}, {"losses": [1.0, 0.5000001], "batch_size": 4})
    'close (1.0e-07 relative)'
    """
    if plain["batch_size"] != changed["batch_size"]:
        return "not comparable: another batch size"
    count = min(len(plain["losses"]), len(changed["losses"]))
    if not count:
        return "no loss was seen"
    return compare(np.array(plain["losses"][:count]), np.array(changed["losses"][:count]))


def compare(one: np.ndarray, other: np.ndarray) -> str:
    """Return whether two outputs of one shape are equal, close, or differ.

    >>> compare(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    'differs (2.5e-01 relative)'
    """
    if np.array_equal(one, other):
        return "equal"
    apart = float(np.max(np.abs(one - other)) / max(float(np.max(np.abs(one))), 1e-12))
    return f"{'close' if apart < _CLOSE else 'differs'} ({apart:.1e} relative)"


def _as_it_was(job: Path) -> Again:
    record = read_json(job / "job.json") if (job / "job.json").is_file() else {}
    if "command" not in record:
        raise InputError(
            f"{job} was made neither by `finepoint profile run` nor by `finepoint train --entry-point`, so that its "
            "script is not known"
        )
    return lambda folder: Command(record["command"], record["working_directory"])


def _window(again: Again, change: dict[str, Any], steps: int) -> dict[str, Any] | str:
    """Return losses and durations of a window, or why there are none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        command = again(folder / "job")
        wanted = {"change": change, "steps": steps, "result": str(folder / "window.json")}
        environment = environment_for(
            ["finepoint.profiler.changes:apply"],
            folder / "attached",
            {"FINEPOINT_PROFILE_TRY": json.dumps(wanted)},
            command.environment,
        )
        try:
            done = subprocess.run(
                command.arguments,
                cwd=command.working_directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it took longer than {_TIMEOUT_SECONDS:.0f} s"
        except OSError as error:
            return f"it cannot be started: {error.strerror}"
        if (folder / "window.json").is_file():
            window: dict[str, Any] = read_json(folder / "window.json")
            return window
        if done.returncode:
            return _how_it_ended(done.returncode, done.stderr.decode(errors="replace"))
        return why_no_steps(folder / "attached") or f"it ended before {steps} steps were over"


def _how_it_ended(code: int, said: str) -> str:
    """Return how a window's process ended, with the last line that it said.

    >>> _how_it_ended(-9, ""), _how_it_ended(1, "Traceback ...\\nKeyError: 'x'\\n")
    ('it was killed by SIGKILL', "it ended with exit code 1: KeyError: 'x'")
    """
    killed = judge_ending(code).signal
    how = f"it was killed by {killed}" if killed else f"it ended with exit code {code}"
    return ": ".join([how, *said.strip().splitlines()[-1:]])


def _mean(window: dict[str, Any]) -> float:
    return float(np.mean(window["seconds"][_WARM_UP:]))
