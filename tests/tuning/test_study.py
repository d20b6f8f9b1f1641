from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from finepoint.errors import ConfigurationError, JobError
from finepoint.tuning.parameters import DEFAULT_SPACE
from finepoint.tuning.state import StudyState
from finepoint.tuning.study import DATABASE, StopTrial, StudySpec, Trial, run_study
from finepoint.tuning.table import trial_line, trial_table


def quadratic(trial: Trial) -> Mapping[str, float]:
    """Lowest at lr 0.01; each epoch comes nearer."""
    values = trial.hyperparameters
    loss = 0.0
    for epoch in range(1, values["epochs"] + 1):
        loss = (math.log10(values["lr"]) + 2) ** 2 + 1 / epoch + values["batch_size"] / 1000
        trial.report({"epoch": epoch, "valid_loss": loss})
    return {"valid_loss": loss, "valid_accuracy": 1 - loss / 10}


def essence(state: StudyState) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.status, dict(trial.hyperparameters), trial.value) for trial in state.trials]


@pytest.mark.parametrize("strategy", ["bayesian", "random", "grid", "hyperband"])
def test_every_strategy_finds_a_good_trial_and_repeats(tmp_path: Path, strategy: str) -> None:
    spec = StudySpec(DEFAULT_SPACE, strategy=strategy, max_jobs=15, seed=3)
    first, second = (run_study(tmp_path / name, spec, quadratic) for name in "ab")
    assert essence(first) == essence(second)
    assert len(first.trials) == 15
    assert first.best is not None
    assert first.best.value == min(trial.value for trial in first.trials if trial.status == "completed" and trial.value)
    assert first.best.value < 0.8


# A child process that runs a study and kills itself in the middle of its third trial, once.
_CHILD = """
import os, signal, sys
from pathlib import Path
from finepoint.tuning.parameters import DEFAULT_SPACE
from finepoint.tuning.study import StudySpec, run_study
from tests.tuning.test_study import quadratic
folder, strategy, kill = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "kill"
def work(trial):
    if kill and trial.number == 2:
        trial.report({"epoch": 1, "valid_loss": -9.0})
        os.kill(os.getpid(), signal.SIGKILL)
    return quadratic(trial)
run_study(folder, StudySpec(DEFAULT_SPACE, strategy=strategy, max_jobs=12, early_stopping=sys.argv[4]), work)
"""


@pytest.mark.parametrize(
    ("strategy", "stopping"),
    [("bayesian", "off"), ("bayesian", "auto"), ("random", "off"), ("grid", "off"), ("hyperband", "off")],
)
def test_a_killed_study_ends_like_an_undisturbed_one(tmp_path: Path, strategy: str, stopping: str) -> None:
    def child(folder: Path, how: str) -> int:
        command = [sys.executable, "-c", _CHILD, str(folder), strategy, how, stopping]
        return subprocess.run(command, cwd=Path(__file__).parents[2], env={**os.environ}).returncode

    assert child(tmp_path / "killed", "kill") == -signal.SIGKILL
    assert child(tmp_path / "killed", "go on") == 0
    assert child(tmp_path / "whole", "go on") == 0
    spec = StudySpec(DEFAULT_SPACE, strategy=strategy, max_jobs=12, early_stopping=stopping)
    ran: list[int] = []

    def never(trial: Trial) -> Mapping[str, float]:
        ran.append(trial.number)
        return quadratic(trial)

    resumed, undisturbed = (run_study(tmp_path / name, spec, never) for name in ("killed", "whole"))
    assert ran == []  # finished trials are not repeated
    assert essence(resumed) == essence(undisturbed)
    assert [trial.attempts for trial in resumed.trials][:4] == [1, 1, 2, 1]
    study = optuna.load_study(study_name="finepoint", storage=f"sqlite:///{tmp_path / 'killed' / DATABASE}")
    failed = study.get_trials(states=(optuna.trial.TrialState.FAIL,))
    assert [trial.user_attrs["reason"] for trial in failed] == ["the process was killed"]


def test_a_failed_trial_is_retried_once_and_the_study_goes_on(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def flaky(trial: Trial) -> Mapping[str, float]:
        seen.append((trial.number, trial.attempt))
        if trial.number == 1 and trial.attempt == 1:
            raise RuntimeError("a hiccup")
        if trial.number == 3:
            raise ValueError("always")
        if trial.number == 4:
            return {"valid_loss": math.nan}
        return quadratic(trial)

    state = run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=6), flaky)
    assert [trial.status for trial in state.trials] == ["completed"] * 3 + ["failed"] * 2 + ["completed"]
    assert state.trials[1].attempts == 2
    assert "always" in state.trials[3].reason
    assert "nan" in state.trials[4].reason
    assert seen.count((3, 2)) == 1


def test_nothing_but_failures_is_an_error_with_the_reason(tmp_path: Path) -> None:
    def broken(_trial: Trial) -> Mapping[str, float]:
        return {"accuracy": 1.0}

    with pytest.raises(JobError, match="recorded no 'valid_loss'"):
        run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=2), broken)


def test_trials_run_side_by_side(tmp_path: Path) -> None:
    barrier = threading.Barrier(2, timeout=30)

    def meet(trial: Trial) -> Mapping[str, float]:
        if trial.number < 2:
            barrier.wait()
        return quadratic(trial)

    state = run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=6, max_parallel_jobs=2), meet)
    longest = max(trial.seconds for trial in state.trials)
    assert longest <= state.seconds < sum(trial.seconds for trial in state.trials)
    assert [trial.number for trial in state.trials] == list(range(6))
    assert {trial.status for trial in state.trials} == {"completed"}


def test_early_stopping_stops_what_is_worse_than_the_median_of_running_averages(tmp_path: Path) -> None:
    curves = [[1.0, 0.5], [1.2, 0.6], [0.8, 0.9], [2.0, 0.1]]

    def replay(trial: Trial) -> Mapping[str, float]:
        for epoch, value in enumerate(curves[trial.number], 1):
            trial.report({"epoch": epoch, "valid_loss": value})
        return {"valid_loss": curves[trial.number][-1]}

    state = run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=4, early_stopping="auto"), replay)
    # Trial 1: 1.2 at epoch 1, the median is 1.0. Trial 2: 0.8 is better than 1.0, then 0.9 is worse than 0.75.
    assert [trial.status for trial in state.trials] == ["completed", "stopped", "stopped", "stopped"]
    assert [len(trial.epochs) for trial in state.trials] == [2, 1, 2, 1]
    assert state.trials[1].value is None


def test_hyperband_and_auto_stopping_do_not_go_together() -> None:
    with pytest.raises(ConfigurationError, match="hyperband stops trials itself"):
        StudySpec(DEFAULT_SPACE, strategy="hyperband", early_stopping="auto")
    with pytest.raises(ConfigurationError) as caught:
        StudySpec({}, max_jobs=0, max_parallel_jobs=0)
    assert len(caught.value.mistakes) == 3


def test_hyperband_stops_some_trials(tmp_path: Path) -> None:
    spec = StudySpec({**DEFAULT_SPACE}, strategy="hyperband", max_jobs=16, seed=1)
    state = run_study(tmp_path, spec, quadratic)
    assert {trial.status for trial in state.trials} == {"completed", "stopped"}
    stopped = next(trial for trial in state.trials if trial.status == "stopped")
    assert trial_line(state, stopped).endswith("stopped: worse than other trials at the same point")


def test_a_study_may_go_on_longer_but_not_become_another(tmp_path: Path) -> None:
    run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=4), quadratic)
    longer = run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=7), quadratic)
    assert essence(longer) == essence(run_study(tmp_path / "b", StudySpec(DEFAULT_SPACE, max_jobs=7), quadratic))
    with pytest.raises(ConfigurationError, match="another strategy and another seed"):
        run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=7, strategy="random", seed=5), quadratic)


def test_a_warm_start_learns_from_an_earlier_study(tmp_path: Path) -> None:
    run_study(tmp_path / "a", StudySpec(DEFAULT_SPACE, max_jobs=15), quadratic)
    spec = StudySpec(DEFAULT_SPACE, max_jobs=4, seed=9, warm_start=(tmp_path / "a" / DATABASE,))
    warm = run_study(tmp_path / "b", spec, quadratic)
    assert len(warm.trials) == 4
    cold = run_study(tmp_path / "c", StudySpec(DEFAULT_SPACE, max_jobs=4, seed=9), quadratic)
    assert warm.best is not None and cold.best is not None
    assert essence(warm) != essence(cold)
    with pytest.raises(ConfigurationError, match="does not exist"):
        run_study(tmp_path / "d", StudySpec(DEFAULT_SPACE, warm_start=(tmp_path / "nix",)), quadratic)


def test_the_state_survives_json_and_names_what_mattered(tmp_path: Path) -> None:
    updates: list[StudyState] = []
    state = run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=15), quadratic, updates.append)
    assert StudyState.from_json(state.to_json()).to_json() == state.to_json()
    assert sum(state.importance.values()) == pytest.approx(1, abs=0.01)
    assert max(state.importance, key=lambda name: state.importance[name]) == "lr"
    assert updates[0].trials[0].status == "running"
    assert trial_table(state).row_count == 15
    assert trial_table(state, rows=5).row_count == 5
    assert state.best is not None
    assert "(best so far)" in trial_line(state, state.best)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("this is no database, " * 100)
    with pytest.raises(ConfigurationError, match="is damaged"):
        run_study(tmp_path, StudySpec(DEFAULT_SPACE, max_jobs=1), quadratic)


def test_stop_is_a_signal() -> None:
    assert not issubclass(StopTrial, (RuntimeError, ValueError))
