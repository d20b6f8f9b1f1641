"""The tuning job of a script: `python -m finepoint.engines.trials` runs a study whose trials are jobs of their own."""

from __future__ import annotations

import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finepoint.engines.confidential import with_secrets
from finepoint.engines.encoding import OBJECTIVE
from finepoint.engines.local import Watcher, execute, how_it_ended
from finepoint.engines.metrics import MetricDefinition, explain_missing
from finepoint.engines.records import RECORD, JobFolder
from finepoint.engines.spec import JobResult, JobSpec
from finepoint.engines.supervisor import Supervisor
from finepoint.engines.telling import Told
from finepoint.errors import ConfigurationError, FinepointError, JobError
from finepoint.events import emit
from finepoint.files import read_json_lines, write_json
from finepoint.models.runtimes import cores
from finepoint.training.environment import base_dir, read_hyperparameters
from finepoint.tuning.parameters import CategoricalParameter, Parameter, space_from_json, space_to_json
from finepoint.tuning.state import StudyState
from finepoint.tuning.study import StopStudy, StopTrial, StudySpec, Trial, run_study

MODULE = "finepoint.engines.trials"
OUTPUT = Path("output/data/tuning.json")
_EARLY = "early stopping: "
# Of a trial's log; enough to explain a regex that never matched.
_LINES = 2000
_INTERRUPTED = "the study was stopped"


def study_job(name: str, study: StudySpec, trial: JobSpec) -> JobSpec:
    """Return the job that searches a script's hyperparameters.

    Args:
        name: of the job; its trials are named after it.
        study: what is searched, and how; its objective is one of the trial's metrics.
        trial: what each trial runs, without what is searched.

    Raises:
        ConfigurationError: study and trial do not fit; all mistakes are listed.
    """
    mistakes = [
        f"{key} is both fixed and searched; give one of the two" for key in study.space if key in trial.hyperparameters
    ]
    if study.objective not in {metric.name for metric in trial.metric_definitions}:
        known = ", ".join(metric.name for metric in trial.metric_definitions) or "there is none"
        mistakes.append(f"objective {study.objective!r} has no metric definition; defined: {known}")
    if len(name) > 50:
        mistakes.append(f"{name!r} is too long for a study; its trials' names are longer by a number")
    if mistakes:
        raise ConfigurationError(mistakes)
    settings = {
        "space": space_to_json(study.space),
        "strategy": study.strategy,
        "objective": study.objective,
        "goal": study.direction,
        "max_jobs": study.max_jobs,
        "max_parallel_jobs": study.max_parallel_jobs,
        "early_stopping": study.early_stopping,
        "seed": study.seed,
        "warm_start": [str(path) for path in study.warm_start],
    }
    return JobSpec(name, module=MODULE, hyperparameters={"study": settings, "trial": trial.to_json()}, tags=trial.tags)


def warn_of_test_set(metric: MetricDefinition, line: str) -> str:
    """Return a warning where an objective is named for the test set, by itself or in the line it is read from, or "".

    >>> warn_of_test_set(MetricDefinition("loss", "loss: ([0-9.]+)"), "valid loss: 0.5")
    ''
    """
    if not re.search(r"(?<![a-z])test", f"{metric.name} {line}", re.IGNORECASE):
        return ""
    return (
        f"{metric.name} is read from {line.strip()!r}, which is named for the test set. What is chosen by the test set "
        "cannot be judged by it: give the script validation images in that channel, and test the best model once"
    )


def trial_values(space: Mapping[str, Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's hyperparameters as SageMaker's tuning hands them over: categorical ones are strings."""
    return {
        name: str(value) if isinstance(space[name], CategoricalParameter) else value for name, value in values.items()
    }


class _Trials:
    """Runs trials as jobs, several at once."""

    def __init__(self, folder: Path, name: str, study: StudySpec, spec: JobSpec) -> None:
        self._folder = folder
        self._name = name
        self._study = study
        self._spec = spec
        self._metric = next(metric for metric in spec.metric_definitions if metric.name == study.objective)
        # One trial may use all cores; several share them.
        self._cpus = max(1, cores() // study.max_parallel_jobs) if study.max_parallel_jobs > 1 else None
        self._lock = threading.RLock()
        self._supervisors: dict[str, Supervisor] = {}
        self._interrupted = False
        self._seen_metric = False
        self._told_test_set = False
        self._told_once = study.early_stopping == "off"
        self._longest = _most_values(folder, study.objective)

    def run(self, trial: Trial) -> Mapping[str, float]:
        """Run a trial to its end, and return the latest value of each of its metrics."""
        name = self.job_name(trial.number, trial.attempt)
        searched = trial_values(self._study.space, trial.hyperparameters)
        own = {OBJECTIVE: self._study.objective}
        resources = replace(self._spec.resources, cpus=self._cpus)
        kept = self._spec.checkpoint_location
        spec = replace(
            self._spec,
            name=name,
            hyperparameters={**self._spec.hyperparameters, **searched, **own},
            resources=resources,
            # A trial must not go on from another's.
            checkpoint_location=f"{kept.rstrip('/')}/{name}" if kept else "",
        )
        count = 0
        lines: list[str] = []

        def on_metrics(values: Mapping[str, float]) -> str:
            nonlocal count
            if self._study.objective not in values:
                return ""
            count += 1
            try:
                if _is_reported(count):
                    trial.report({"epoch": count, **values})
            except StopTrial as error:
                # Where earlier trials printed their last value this one is as good as done, and leaves its model.
                return f"{_EARLY}{error}" if count < self._longest else ""
            return ""

        def on_line(host: str, line: str) -> None:
            lines.append(line)
            del lines[:-_LINES]
            if not self._told_test_set and self._metric.values(line):
                self._told_test_set = True
                if warning := warn_of_test_set(self._metric, line):
                    _note(warning)

        watcher = Watcher(
            on_line=on_line,
            on_metrics=on_metrics,
            on_start=lambda supervisor: self._started(name, supervisor),
            say=lambda text: _note(f"{name}: {text}"),
        )
        try:
            result = execute(self._folder / name, spec, watcher)
        except ConfigurationError as error:
            self.interrupt()  # the next trial would find the same
            raise StopStudy(str(error)) from error
        finally:
            with self._lock:
                self._supervisors.pop(name, None)
        return self._value_of(result, count, lines)

    def job_name(self, number: int, attempt: int) -> str:
        """Return the name of a trial's job."""
        return f"{self._name}-{number:03d}" + ("" if attempt == 1 else f"-{attempt}")

    def interrupt(self) -> None:
        """Stop the trials that run; none begins any more."""
        with self._lock:
            self._interrupted = True
            for supervisor in self._supervisors.values():
                supervisor.stop(_INTERRUPTED)

    def _started(self, name: str, supervisor: Supervisor) -> None:
        with self._lock:
            self._supervisors[name] = supervisor
            if self._interrupted:
                supervisor.stop(_INTERRUPTED)

    def _value_of(self, result: JobResult, count: int, lines: list[str]) -> Mapping[str, float]:
        if result.failure.startswith(_EARLY) and result.status == "Stopped":
            raise StopTrial(result.failure.removeprefix(_EARLY))
        if self._interrupted:
            raise StopStudy(_INTERRUPTED)
        if result.status == "Failed":
            raise JobError(f"{how_it_ended(result.exit_code)}. {result.failure}")
        if self._study.objective not in result.metrics:
            text = explain_missing(self._metric, lines)
            if not self._seen_metric and result.status == "Completed":
                self.interrupt()  # no trial has shown it: the regex is wrong, and all others would be in vain
                raise StopStudy(text)
            raise JobError(f"{text} (it was {result.status.lower()}: {result.failure})" if result.failure else text)
        self._seen_metric = True
        self._longest = max(self._longest, count)
        if count == 1 and not self._told_once:
            self._told_once = True
            _note(
                f"the script printed {self._study.objective} once; early stopping compares what is printed on the way, "
                "so that it can never stop a trial of this script. Print the metric after every epoch"
            )
        return result.metrics


def _most_values(folder: Path, objective: str) -> int:
    """Return how many values of the objective a completed trial of an earlier process printed at most."""
    jobs = [JobFolder(path.parent) for path in folder.glob(f"*/{RECORD}")]
    done = [read_json_lines(job.metrics) for job in jobs if job.read()["status"] == "Completed"]
    return max((sum(value["name"] == objective for value in values) for values in done), default=0)


def tune(folder: Path, hyperparameters: Mapping[str, Any]) -> None:
    """Run the study that a tuning job's hyperparameters describe; leave its state in `tuning.json`.

    Raises:
        FinepointError: what was given cannot be used, or no trial could be completed.
    """
    settings = dict(hyperparameters["study"])
    warm_start = tuple(Path(path) for path in settings.pop("warm_start"))
    study = StudySpec(space=space_from_json(settings.pop("space")), warm_start=warm_start, **settings)
    spec = JobSpec.from_json(with_secrets(hyperparameters["trial"], folder))
    name = folder.name[:50]
    trials = _Trials(folder / "trials", name, study, spec)
    if study.max_parallel_jobs > cores():
        _note(f"{study.max_parallel_jobs} trials at once share {cores()} cores; each gets one, and they take turns")
    _on_sigterm(trials.interrupt)
    try:
        state = run_study(folder / "checkpoints", study, trials.run, Told())
    except StopStudy as error:
        raise JobError(str(error)) from error
    write_json(folder / OUTPUT, _record(state, study, spec, trials))


def _on_sigterm(act: Callable[[], None]) -> None:
    """Call a function from a thread of its own when SIGTERM comes.

    The main thread waits for trials, and a signal that comes as it goes to sleep would be heard when they have ended.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while signal.SIGTERM not in reader.recv(64):  # other signals are written too
            pass
        act()

    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.set_wakeup_fd(writer.detach())
    threading.Thread(target=listen, name="SIGTERM", daemon=True).start()


def _record(state: StudyState, study: StudySpec, spec: JobSpec, trials: _Trials) -> dict[str, Any]:
    best = state.best
    record: dict[str, Any] = {"tuning": state.to_json(), "best_job": None, "best_hyperparameters": None}
    if best is not None:
        record["best_job"] = trials.job_name(best.number, best.attempts)
        values = trial_values(study.space, best.hyperparameters)
        record["best_hyperparameters"] = {**spec.hyperparameters, **values}
    return record


def _is_reported(count: int) -> bool:
    """Return whether the so-many-th value is looked at: all of the first hundred, then ever fewer, at fixed places."""
    return bool(count % max(1, 10 ** (len(str(count)) - 2)) == 0)


def _note(text: str) -> None:
    emit("note", text=text)
    sys.stdout.write(f"note: {text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the tuning job and return its exit code."""
    try:
        tune(base_dir(), read_hyperparameters())
    except FinepointError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
