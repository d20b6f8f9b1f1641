"""A study: trials chosen by Optuna, recorded in SQLite, resumed after a kill as if nothing had happened."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from finepoint.errors import ConfigurationError, JobError
from finepoint.tuning.database import STUDY_NAME, busy_seconds, record_of, storage
from finepoint.tuning.objectives import Direction, direction_of
from finepoint.tuning.parameters import Parameter, space_to_json
from finepoint.tuning.state import StudyState
from finepoint.tuning.strategies import (
    check_strategy,
    distributions,
    grid,
    make_sampler,
    trial_seed,
)

if TYPE_CHECKING:
    import optuna

DATABASE = "study.db"
_ATTEMPTS = 2
_LOCK_SECONDS = 120


@dataclass(frozen=True)
class StudySpec:
    """What is searched, and how.

    Args:
        space: a range for each hyperparameter.
        strategy: `bayesian`, `random`, `grid` or `hyperband`.
        objective: the metric that decides, of those that a trial returns.
        max_jobs: trials in all.
        max_parallel_jobs: trials at once.
        early_stopping: `auto` (the median rule) or `off`.
        seed: of everything random.
        warm_start: `study.db` files of earlier studies, whose trials the strategy learns from.
        goal: `minimize` or `maximize`; None where the objective's name says it.
    """

    space: Mapping[str, Parameter]
    strategy: str = "bayesian"
    objective: str = "valid_loss"
    max_jobs: int = 20
    max_parallel_jobs: int = 1
    early_stopping: str = "off"
    seed: int = 0
    warm_start: tuple[Path, ...] = ()
    goal: Direction | None = None

    def __post_init__(self) -> None:
        mistakes: list[str] = []
        for check in (lambda: check_strategy(self.strategy, self.early_stopping), lambda: self.direction):
            try:
                check()
            except ConfigurationError as error:
                mistakes += error.mistakes
        mistakes += [
            f"{name} is {value}; it must be at least 1"
            for name, value in (("max_jobs", self.max_jobs), ("max_parallel_jobs", self.max_parallel_jobs))
            if value < 1
        ]
        if not self.space:
            mistakes.append("the space is empty; give at least one --range")
        if mistakes:
            raise ConfigurationError(mistakes)

    @property
    def direction(self) -> Direction:
        """`minimize` or `maximize`."""
        return self.goal or direction_of(self.objective)

    def identity(self) -> dict[str, Any]:
        """Return what may not change when a study is resumed; `max_jobs` may."""
        return {
            "space": space_to_json(self.space),
            "strategy": self.strategy,
            "objective": self.objective,
            "early_stopping": self.early_stopping,
            "seed": self.seed,
            **({} if self.goal is None else {"goal": self.goal}),
        }


class StopStudy(Exception):  # noqa: N818 - a signal, not an error
    """Raised by a trial's function where no other trial can do better, or none may begin; it is on record as failed."""


class StopTrial(Exception):  # noqa: N818 - a signal, not an error
    """Raised by `Trial.report` when the trial need not go on."""


@dataclass
class Trial:
    """A trial that is running, as its function sees it.

    Args:
        number: from 0.
        attempt: 1, or 2 after a failure or a kill.
        hyperparameters: that were chosen.
        seed: of everything random in it.
    """

    number: int
    attempt: int
    hyperparameters: dict[str, Any]
    seed: int
    _report: Callable[[Mapping[str, Any]], None]

    def report(self, record: Mapping[str, Any]) -> None:
        """Report an epoch's record, with `epoch` (from 1) and metrics.

        Raises:
            StopTrial: early stopping ends the trial here.
        """
        self._report(record)


RunTrial = Callable[[Trial], Mapping[str, Any]]
OnUpdate = Callable[[StudyState], None]


def run_study(folder: Path, spec: StudySpec, run_trial: RunTrial, on_update: OnUpdate | None = None) -> StudyState:
    """Run a study to its end, going on where an earlier call in the same folder was stopped.

    Args:
        folder: keeps `study.db`.
        spec: what is searched, and how.
        run_trial: runs one trial and returns the metrics of its best epoch; what it raises fails the trial,
            which is then tried once more.
        on_update: called with the state whenever a trial starts, reports or ends.

    Raises:
        ConfigurationError: the folder holds a study of something else.
        JobError: no trial could be completed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # An orphan of a killed run may still be in its last trial; two writers would spoil the study.
    with FileLock(folder / "study.lock", timeout=_LOCK_SECONDS), _quiet():
        return _Runner(folder, spec, run_trial, on_update).run()


class _Runner:
    def __init__(self, folder: Path, spec: StudySpec, run_trial: RunTrial, on_update: OnUpdate | None) -> None:
        self.spec = spec
        self.run_trial = run_trial
        self.on_update = on_update
        self.lock = threading.RLock()
        self.distributions = distributions(spec.space)
        self.grid = grid(spec.space)[: spec.max_jobs] if spec.strategy == "grid" else None
        self.max_jobs = len(self.grid) if self.grid is not None else spec.max_jobs
        self.study = _open_study(folder / DATABASE, spec)

    def run(self) -> StudyState:
        self._check_identity()
        self._warm_start()
        queue = self._interrupted()
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(self.spec.max_parallel_jobs, thread_name_prefix="trial") as pool:
            try:
                while True:
                    while len(running) < self.spec.max_parallel_jobs:
                        with self.lock:
                            trial = self._next(queue)
                        if trial is None:
                            break
                        running.add(pool.submit(self._run_one, trial, queue))
                    if not running:
                        break
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            except BaseException:
                for future in running:
                    future.cancel()
                raise
        state = self.state(final=True)
        if state.best is None:
            reasons = sorted({trial.reason for trial in state.trials if trial.reason})
            raise JobError(f"none of {len(state.trials)} trials could be completed: {'; '.join(reasons[:3])}")
        return state

    def state(self, *, final: bool = False) -> StudyState:
        """Return what is known now; the importance of hyperparameters only when all is done."""
        groups: dict[int, list[optuna.trial.FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if "number" in trial.user_attrs:
                groups.setdefault(trial.user_attrs["number"], []).append(trial)
        records = tuple(record_of(number, attempts) for number, attempts in sorted(groups.items()))
        return StudyState(
            strategy=self.spec.strategy,
            objective=self.spec.objective,
            direction=self.spec.direction,
            max_jobs=self.max_jobs,
            trials=records,
            importance=self._importance() if final else {},
            seconds=busy_seconds([trial for attempts in groups.values() for trial in attempts]),
        )

    def _check_identity(self) -> None:
        before, now = self.study.user_attrs.get("spec"), self.spec.identity()
        if before is None:
            self.study.set_user_attr("spec", now)
        elif before != now:
            differing = [key for key in now if before.get(key) != now[key]]
            raise ConfigurationError(
                f"the run holds a study with another {' and another '.join(differing)}; "
                "give the same settings to go on with it, or another --run to begin anew"
            )

    def _warm_start(self) -> None:
        import optuna

        for path in self.spec.warm_start:
            if str(path) in self.study.user_attrs.get("warm_start", []):
                continue
            if not path.is_file():
                raise ConfigurationError(f"--warm-start: {path} does not exist; give a run that was tuned")
            other = optuna.load_study(study_name=STUDY_NAME, storage=storage(path))
            usable = [
                trial
                for trial in other.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
                if trial.distributions == self.distributions
            ]
            if not usable:
                raise ConfigurationError(f"--warm-start: {path} has no completed trial of the same space")
            if other.user_attrs.get("spec", {}).get("objective") != self.spec.objective:
                raise ConfigurationError(f"--warm-start: {path} was tuned for another objective")
            for trial in usable:
                self.study.add_trial(
                    optuna.create_trial(
                        params=trial.params,
                        distributions=trial.distributions,
                        value=trial.value,
                        user_attrs={"from": str(path)},
                    )
                )
            seen = [*self.study.user_attrs.get("warm_start", []), str(path)]
            self.study.set_user_attr("warm_start", seen)

    def _interrupted(self) -> list[tuple[int, int, dict[str, Any]]]:
        """Fail the trials that were running at a kill; return (number, attempt, hyperparameters) to try again."""
        import optuna

        again = []
        latest: dict[int, optuna.trial.FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == optuna.trial.TrialState.RUNNING:
                if "number" in trial.user_attrs:
                    self.study._storage.set_trial_user_attr(trial._trial_id, "reason", "the process was killed")
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if "number" in trial.user_attrs:
                latest[trial.user_attrs["number"]] = trial
        for trial in self.study.get_trials(deepcopy=False):
            number = trial.user_attrs.get("number")
            if number is None or latest[number].number != trial.number:
                continue
            attempt = trial.user_attrs["attempt"]
            if trial.state == optuna.trial.TrialState.FAIL and attempt < _ATTEMPTS:
                again.append((number, attempt + 1, trial.user_attrs["hyperparameters"]))
        return again

    def _next(self, queue: list[tuple[int, int, dict[str, Any]]]) -> tuple[optuna.trial.Trial, Trial] | None:
        """Return the next trial to run: one to be tried again, or a new one; None when there is no more."""
        if queue:
            number, attempt, values = queue.pop(0)
            return self._start(number, attempt, values)
        taken = [trial.user_attrs.get("number", -1) for trial in self.study.get_trials(deepcopy=False)]
        number = max(taken, default=-1) + 1
        if number >= self.max_jobs:
            return None
        return self._start(number, 1, self.grid[number] if self.grid is not None else None)

    def _start(self, number: int, attempt: int, values: dict[str, Any] | None) -> tuple[optuna.trial.Trial, Trial]:
        if values is not None:
            self.study.enqueue_trial(values)
        self.study.sampler = make_sampler(
            self.spec.strategy,
            self.spec.space,
            self.spec.seed,
            number,
            parallel=self.spec.max_parallel_jobs > 1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental features and of queued values off the grid
            asked = self.study.ask(self.distributions)
        seed = trial_seed(self.spec.seed, number)
        for key, value in (("number", number), ("attempt", attempt), ("hyperparameters", dict(asked.params))):
            asked.set_user_attr(key, value)
        return asked, Trial(number, attempt, dict(asked.params), seed, self._reporter(asked))

    def _reporter(self, asked: optuna.trial.Trial) -> Callable[[Mapping[str, Any]], None]:
        epochs: list[Mapping[str, Any]] = []
        halving = self.spec.strategy == "hyperband"
        stops = halving or self.spec.early_stopping == "auto"
        others = "other trials" if halving else "the median of the earlier trials"

        def report(record: Mapping[str, Any]) -> None:
            epochs.append(dict(record))
            value = record.get(self.spec.objective)
            with self.lock:
                asked.set_user_attr("epochs", epochs)
                if not stops or value is None or not math.isfinite(value):
                    return
                asked.report(float(value), int(record["epoch"]))
                if asked.should_prune():
                    raise StopTrial(f"worse than {others} at the same point")

        return report

    def _run_one(self, started: tuple[optuna.trial.Trial, Trial], queue: list[tuple[int, int, dict[str, Any]]]) -> None:
        import optuna

        asked, trial = started
        self._update()
        begin = time.perf_counter()
        states = optuna.trial.TrialState
        ending: StopStudy | None = None
        try:
            value = self._value(self.run_trial(trial))
        except StopTrial as error:
            outcome, value, reason = states.PRUNED, None, str(error)
        except StopStudy as error:
            outcome, value, reason, ending = states.FAIL, None, str(error), error
        except Exception as error:  # noqa: BLE001 - whatever a trial raises is its failure, recorded with its reason
            outcome, value, reason = states.FAIL, None, f"{type(error).__name__}: {error}"
        else:
            outcome, reason = states.COMPLETE, ""
        with self.lock:
            asked.set_user_attr("seconds", round(time.perf_counter() - begin, 4))
            if reason:
                asked.set_user_attr("reason", reason)
            self.study.tell(asked, value, state=outcome)
            if outcome == states.FAIL and trial.attempt < _ATTEMPTS:
                queue.append((trial.number, trial.attempt + 1, trial.hyperparameters))
        self._update()
        if ending is not None:
            raise ending

    def _value(self, metrics: Mapping[str, Any]) -> float:
        if self.spec.objective not in metrics:
            raise ConfigurationError(
                f"the trial recorded no {self.spec.objective!r}; it recorded {', '.join(sorted(metrics))}"
            )
        value = float(metrics[self.spec.objective])
        if not math.isfinite(value):
            raise ArithmeticError(f"{self.spec.objective} is {value}")
        return value

    def _update(self) -> None:
        if self.on_update is not None:
            with self.lock:
                self.on_update(self.state())

    def _importance(self) -> dict[str, float]:
        import optuna

        complete = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
            return {}
        names = [name for name in self.spec.space if len({str(trial.params[name]) for trial in complete}) > 1]
        if not names:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.spec.seed)
        try:
            found = optuna.importance.get_param_importances(self.study, evaluator=evaluator, params=names)
        except (RuntimeError, ValueError):
            return {}  # fANOVA needs variance, which these trials may not have
        return {name: round(float(share), 4) for name, share in found.items()}


def _open_study(path: Path, spec: StudySpec) -> optuna.study.Study:
    import optuna

    from finepoint.tuning.stopping import make_pruner  # here, because it imports Optuna

    return optuna.create_study(
        study_name=STUDY_NAME,
        storage=storage(path),
        load_if_exists=True,
        direction=spec.direction,
        pruner=make_pruner(spec.strategy, spec.early_stopping, spec.space, spec.direction),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from writing to standard error while the block runs."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
