"""Trials: a recording read as smdebug's users are used to."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finepoint.debugger.collection import Collection, CollectionManager
from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recording import Recording, TensorPlace
from finepoint.errors import ConfigurationError, NotFoundError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

# How often a waiting reader looks for new segments, in seconds.
_LOOK_EVERY = 0.5


class TensorUnavailable(NotFoundError):
    """No tensor of that name was saved."""


class TensorUnavailableForStep(NotFoundError):
    """The tensor was not saved at that step, or only as reductions."""


class StepUnavailable(NotFoundError):
    """The step was not saved."""


class NoMoreData(NotFoundError):
    """The job has ended before that step."""


def create_trial(path: str | Path, name: str | None = None, *, wait: float = 0.0) -> Trial:
    """Return the trial in a folder: a job's, or its `debug-output`; also at an `s3://` address.

    Args:
        path: the folder, or the address; the job may still run.
        name: of the trial; by default the folder's.
        wait: seconds to wait for the recording to appear.

    Raises:
        NotFoundError: no recording has appeared.
    """
    place = str(path).strip()
    deadline = time.monotonic() + wait
    while True:
        try:
            return Trial(Recording.open(place), name or Path(place).name)
        except NotFoundError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_EVERY)


class Trial:
    """What was recorded of a job, by names, modes and steps.

    Where no mode is given, steps are global: counted over all modes, as smdebug does.

    >>> from finepoint.debugger.writing import RecordingWriter
    >>> writer = RecordingWriter(None)
    >>> for step in (0, 10):
    ...     writer.values(step, ModeKeys.TRAIN, {("Net_fc.weight", "l2"): 3.0 + step}, global_step=2 * step)
    >>> trial = Trial(writer.recording(), "example")
    >>> trial.tensor_names(regex="weight"), trial.steps(mode=ModeKeys.TRAIN), trial.steps()
    (['Net_fc.weight'], [0, 10], [0, 20])
    >>> trial.tensor("Net_fc.weight").reduction_value(10, "l2", mode=ModeKeys.TRAIN)
    13.0
    """

    def __init__(self, recording: Recording, name: str) -> None:
        self.recording, self.name = recording, name
        self.path = recording.path

    def refresh(self) -> None:
        """Read what has been recorded since."""
        self.recording.refresh()

    @property
    def loaded_all_steps(self) -> bool:
        """Whether the job has ended, so that no more steps will come."""
        self.refresh()
        return self.recording.ended

    def tensor_names(
        self,
        show_prefixed_tensors: bool = False,
        *,
        step: int | None = None,
        mode: ModeKeys = ModeKeys.GLOBAL,
        regex: str | Iterable[str] | None = None,
        collection: str | Collection | None = None,
    ) -> list[str]:
        """Return the names of what was saved, sorted.

        Args:
            show_prefixed_tensors: accepted for compatibility.
            step: only what was saved at it.
            mode: only what was saved in it.
            regex: a pattern to be found in the name, or several of which one must be.
            collection: only what belongs to it; not together with `regex`.

        Raises:
            ValueError: both `regex` and `collection` are given.
        """
        if regex is not None and collection is not None:
            raise ValueError("only one of regex and collection can be given")
        self.refresh()
        names = self.recording.names(mode=mode)
        if collection is not None:
            wanted = collection.name if isinstance(collection, Collection) else collection
            held = self.collections().get(wanted)
            names = [name for name in names if held is not None and held.matches(name)]
        if regex is not None:
            patterns = [regex] if isinstance(regex, str) else list(regex)
            names = [name for name in names if any(re.search(pattern, name) for pattern in patterns)]
        if step is not None:
            names = [name for name in names if step in self._steps_of(name, mode)]
        return names

    def has_tensor(self, tname: str) -> bool:
        """Return whether anything was saved under a name."""
        self.refresh()
        return tname in self.recording.names()

    def tensor(self, tname: str) -> TrialTensor:
        """Return what was saved under a name.

        Raises:
            TensorUnavailable: nothing was.
        """
        if not self.has_tensor(tname):
            raise TensorUnavailable(f"{tname} was not saved; trial.tensor_names() lists what was")
        return TrialTensor(self, tname)

    def steps(self, mode: ModeKeys = ModeKeys.GLOBAL, show_incomplete_steps: bool = False) -> list[int]:
        """Return the steps at which anything was saved."""
        self.refresh()
        return self.recording.steps(mode)

    def modes(self) -> list[ModeKeys]:
        """Return the modes in which anything was saved."""
        self.refresh()
        return [mode for mode in self.recording.modes if mode is not ModeKeys.GLOBAL]

    def collections(self) -> dict[str, Collection]:
        """Return the collections by name, with the tensors that were saved of each."""
        self.refresh()
        manager = CollectionManager()
        for name, tensors in self.recording.collections.items():
            manager.get(name).tensor_names |= tensors
        return manager.collections

    def collection(self, coll_name: str) -> Collection:
        """Return a collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        found = self.collections().get(coll_name)
        if found is None:
            raise NotFoundError(f"there is no collection {coll_name!r}; there are {', '.join(self.collections())}")
        return found

    def workers(self) -> list[str]:
        """Return the names of the processes that recorded: `worker_0` and so on."""
        return [f"worker_{rank}" for rank in self.recording.ranks]

    def global_step(self, mode: ModeKeys, mode_step: int) -> int | None:
        """Return the global step of a step of a mode."""
        return mode_step if mode is ModeKeys.GLOBAL else self._pairs(mode).get(mode_step)

    def mode_modestep(self, global_step: int) -> tuple[ModeKeys | None, int | None]:
        """Return the mode of a global step, and the step within it; (None, None) where it was not saved."""
        for mode in self.recording.modes:
            for step, at in self._pairs(mode).items():
                if at == global_step:
                    return mode, step
        return None, None

    def mode(self, global_step: int) -> ModeKeys | None:
        """Return the mode of a global step."""
        return self.mode_modestep(global_step)[0]

    def mode_step(self, global_step: int) -> int | None:
        """Return the step within its mode of a global step."""
        return self.mode_modestep(global_step)[1]

    def wait_for_steps(
        self, required_steps: Iterable[int], mode: ModeKeys = ModeKeys.GLOBAL, timeout: float | None = None
    ) -> None:
        """Wait until steps have been recorded.

        Args:
            required_steps: the steps.
            mode: that they are counted in.
            timeout: seconds to wait at most.

        Raises:
            StepUnavailable: a later step has been recorded but not this one, or the time is over.
            NoMoreData: the job has ended before it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for step in required_steps:
            while step not in (known := self.steps(mode)):
                if any(later > step for later in known):
                    raise StepUnavailable(f"step {step} of mode {mode.name} was not saved")
                if self.recording.ended:
                    last = known[-1] if known else "none"
                    raise NoMoreData(f"step {step} of mode {mode.name} does not come: the job ended at {last}")
                if deadline is not None and time.monotonic() >= deadline:
                    raise StepUnavailable(f"step {step} of mode {mode.name} did not come within {timeout:g} s")
                time.sleep(_LOOK_EVERY)

    def to_pandas(self, regex: str | None = None) -> DataFrame:
        """Return all series as one table: name, mode, reduction, step, global_step, value, rank, time.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigurationError("to_pandas needs pandas: pip install pandas") from None
        self.refresh()
        parts = [
            pandas.DataFrame(
                {
                    "name": name,
                    "mode": mode.name,
                    "reduction": reduction,
                    "step": series.steps,
                    "global_step": series.global_steps,
                    "value": series.values,
                    "rank": series.ranks,
                    "time": series.times,
                }
            )
            for name in self.recording.names(regex)
            for mode in self.recording.modes
            for reduction in self.recording.reductions(name)
            if len(series := self.recording.series(name, reduction, mode))
        ]
        columns = ["name", "mode", "reduction", "step", "global_step", "value", "rank", "time"]
        return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame(columns=columns)

    def plot(self, name_or_regex: str, reduction: str | None = None) -> Figure:
        """Return a figure of everything whose name matches, training and evaluation on one figure.

        Raises:
            NotFoundError: nothing matches.
            ConfigurationError: matplotlib is not installed.
        """
        from finepoint.debugger.plotting import plot

        self.refresh()
        return plot(self.recording, name_or_regex, reduction)

    def __repr__(self) -> str:
        return f"<Trial {self.name}: {self.path}, {len(self.recording.names())} tensors, modes {self.modes()}>"

    def _pairs(self, mode: ModeKeys) -> dict[int, int]:
        """Return the global step of each step of a mode."""
        return self.recording.global_steps(mode)

    def _steps_of(self, name: str, mode: ModeKeys) -> list[int]:
        if mode is ModeKeys.GLOBAL:
            return sorted({at for known in ModeKeys for at in self._places(name, known).values()})
        return sorted(self._places(name, mode))

    def _places(self, name: str, mode: ModeKeys) -> dict[int, int]:
        """Return the steps of a mode at which a tensor was saved, each with its global step."""
        found = {place.step: place.global_step for place in self.recording.tensors(name, mode)}
        for reduction in self.recording.reductions(name):
            series = self.recording.series(name, reduction, mode)
            found.update(zip(series.steps.tolist(), series.global_steps.tolist(), strict=True))
        return found


class TrialTensor:
    """What was saved under one name."""

    def __init__(self, trial: Trial, name: str) -> None:
        self.trial, self.name = trial, name

    def steps(self, mode: ModeKeys = ModeKeys.GLOBAL, show_incomplete_steps: bool = False) -> list[int]:
        """Return the steps at which it was saved."""
        self.trial.refresh()
        return self.trial._steps_of(self.name, mode)

    def value(self, step_num: int, mode: ModeKeys = ModeKeys.GLOBAL, worker: str | None = None) -> np.ndarray:
        """Return the whole tensor; of what is one number (a loss, a scalar), that.

        Raises:
            TensorUnavailableForStep: it was not saved then, or only its reductions were.
        """
        mode, step = self._place(step_num, mode)
        rank = _rank(worker)
        recording = self.trial.recording
        kept: list[TensorPlace] = [place for place in recording.tensors(self.name, mode) if place.step == step]
        if kept:
            return recording.tensor(self.name, step, mode, rank=rank)
        known = recording.reductions(self.name)
        if known in (["value"], ["mean"]):  # one number: its only reduction is the number
            value = self._of_series(step, known[0], mode, rank)
            if value is not None:
                return np.array(value)
        raise TensorUnavailableForStep(
            f"{self.name} was not kept whole at step {step_num} of mode {mode.name}; "
            f"there are its reductions {', '.join(known)}"
            if known
            else f"{self.name} was not saved at step {step_num} of mode {mode.name}"
        )

    def values(self, mode: ModeKeys = ModeKeys.GLOBAL, worker: str | None = None) -> dict[int, np.ndarray]:
        """Return the whole tensor at each step."""
        return {step: self.value(step, mode, worker) for step in self.steps(mode)}

    def shape(self, step_num: int, mode: ModeKeys = ModeKeys.GLOBAL, worker: str | None = None) -> tuple[int, ...]:
        """Return the shape of the whole tensor."""
        return self.value(step_num, mode, worker).shape

    def reduction_value(
        self,
        step_num: int,
        reduction_name: str,
        mode: ModeKeys = ModeKeys.GLOBAL,
        worker: str | None = None,
        abs: bool = False,
    ) -> float:
        """Return a reduction; computed from the whole tensor where only that was saved.

        Args:
            step_num: the step.
            reduction_name: `mean`, `l2`, ...
            mode: that the step is counted in.
            worker: the process; by default the first that saved it.
            abs: of the absolute values.

        Raises:
            TensorUnavailableForStep: neither was saved at that step.
        """
        mode, step = self._place(step_num, mode)
        name = f"abs_{reduction_name}" if abs else reduction_name
        value = self._of_series(step, name, mode, _rank(worker))
        if value is None and abs and reduction_name in ("l1", "l2"):
            value = self._of_series(step, reduction_name, mode, _rank(worker))
        if value is not None:
            return value
        whole = self.value(step_num if mode is ModeKeys.GLOBAL else step, mode, worker)
        return _numpy_reduction(reduction_name, np.abs(whole) if abs else whole)

    def reduction_values(
        self, step_num: int, mode: ModeKeys = ModeKeys.GLOBAL, worker: str | None = None
    ) -> dict[tuple[str, bool], float]:
        """Return all reductions that were saved, by (name, whether of the absolute values)."""
        mode, step = self._place(step_num, mode)
        found = {}
        for name in self.trial.recording.reductions(self.name):
            value = self._of_series(step, name, mode, _rank(worker))
            if value is not None:
                found[name.removeprefix("abs_"), name.startswith("abs_")] = value
        return found

    def workers(self, step_num: int, mode: ModeKeys = ModeKeys.GLOBAL) -> list[str]:
        """Return the processes that saved it at a step."""
        mode, step = self._place(step_num, mode)
        recording = self.trial.recording
        ranks = {place.rank for place in recording.tensors(self.name, mode) if place.step == step}
        for reduction in recording.reductions(self.name):
            series = recording.series(self.name, reduction, mode)
            ranks |= set(series.ranks[series.steps == step].tolist())
        return [f"worker_{rank}" for rank in sorted(ranks)]

    def prev_steps(self, step: int, n: int | None = None, mode: ModeKeys = ModeKeys.GLOBAL) -> list[int]:
        """Return the last `n` steps up to one at which it was saved."""
        earlier = [known for known in self.steps(mode) if known <= step]
        return earlier if n is None else earlier[-n:]

    def _place(self, step: int, mode: ModeKeys) -> tuple[ModeKeys, int]:
        """Return the mode that a step was saved in, and the step within it.

        Raises:
            StepUnavailable: nothing was saved at it.
        """
        self.trial.refresh()
        if mode is ModeKeys.GLOBAL:
            for known in ModeKeys:
                for within, at in self.trial._places(self.name, known).items():
                    if at == step:
                        return known, within
        elif step in self.trial._places(self.name, mode):
            return mode, step
        saved = self.steps(mode)
        if step in self.trial.steps(mode):
            raise TensorUnavailableForStep(
                f"{self.name} was not saved at step {step} of mode {mode.name}; it was at {saved}"
            )
        raise StepUnavailable(f"step {step} of mode {mode.name} was not saved; {self.name} was at {saved}")

    def _of_series(self, step: int, reduction: str, mode: ModeKeys, rank: int | None) -> float | None:
        series = self.trial.recording.series(self.name, reduction, mode, rank=rank)
        found = series.values[series.steps == step]
        return float(found[0]) if len(found) else None


def _rank(worker: str | None) -> int | None:
    return None if worker is None else int(worker.removeprefix("worker_"))


def _numpy_reduction(name: str, values: np.ndarray) -> float:
    functions: Mapping[str, Any] = {
        "min": np.min,
        "max": np.max,
        "mean": np.mean,
        "std": np.std,
        "variance": np.var,
        "sum": np.sum,
        "prod": np.prod,
        "l1": lambda array: np.linalg.norm(array.reshape(-1), 1),
        "l2": lambda array: np.linalg.norm(array.reshape(-1), 2),
    }
    if name not in functions:
        raise ConfigurationError(f"reduction {name!r} is not known; choose from {', '.join(functions)}")
    return float(functions[name](values))
