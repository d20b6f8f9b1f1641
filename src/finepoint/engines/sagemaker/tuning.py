"""`--tuner amt`: a study by SageMaker's automatic model tuning, a training job for each trial."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finepoint.engines.debugging import read_results
from finepoint.engines.local import Watcher
from finepoint.engines.recorded import is_recorded
from finepoint.engines.records import CLOUD_RECORD, TUNING_JOB, JobFolder, tuning_name
from finepoint.engines.sagemaker.asked import asked, refuse_another
from finepoint.engines.sagemaker.cloud import is_missing
from finepoint.engines.sagemaker.rates import add_bill, refuse_above, spent
from finepoint.engines.sagemaker.requests import instance_count, instance_type, tell_volume_key, tuning_request
from finepoint.engines.sagemaker.training import ENDED, SageMakerEngine
from finepoint.engines.spec import JobSpec
from finepoint.errors import CloudError, ConfigurationError, JobError
from finepoint.files import read_json, write_json
from finepoint.tuning.parameters import CategoricalParameter, Parameter
from finepoint.tuning.strategies import grid

RECORD = "tuning.json"
_CONFIG, _OBJECTIVE = "HyperParameterTuningJobConfig", "HyperParameterTuningJobObjective"
# Of CreateHyperParameterTuningJob.
_NAME = 32


@dataclass(frozen=True)
class AmtStudy:
    """What is searched.

    Args:
        space: the ranges.
        minimize: name of the metric that is to be small, or
        maximize: large; one of the two.
        strategy: `bayesian`, `random`, `grid` or `hyperband`.
        max_jobs: trials in all; a grid has as many as it has points.
        max_parallel_jobs: at once.
        early_stopping: `auto` or `off`.
        seed: of the search.
        warm_start: earlier tuning jobs to learn from.
    """

    space: Mapping[str, Parameter]
    minimize: str = ""
    maximize: str = ""
    strategy: str = "bayesian"
    max_jobs: int = 10
    max_parallel_jobs: int = 1
    early_stopping: str = "off"
    seed: int = 0
    warm_start: tuple[str, ...] = ()

    @property
    def jobs(self) -> int:
        """Trials at most: of a grid AWS runs every point, whatever `max_jobs` says."""
        return len(grid(self.space)) if self.strategy == "grid" else self.max_jobs

    @property
    def objective(self) -> tuple[str, str]:
        """`minimize` or `maximize`, and the metric."""
        return ("minimize", self.minimize) if self.minimize else ("maximize", self.maximize)


def tune(
    engine: SageMakerEngine,
    folder: Path,
    spec: JobSpec,
    study: AmtStudy,
    watcher: Watcher | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Run a tuning job to its end, and return its best trial and all others; `tuning.json` in the folder has it too.

    Args:
        engine: where.
        folder: of the study; a tuning job that is under way from an earlier call is found there and followed.
        spec: what each trial runs, without what is searched.
        study: what is searched.
        watcher: is told what happens.
        sleep: waits so many seconds between two looks.

    Raises:
        ConfigurationError: spec and study do not fit, or it may cost too much.
        JobError: no trial ended with the objective's metric.
        KeyboardInterrupt: it was interrupted; the study was told to stop.
    """
    watcher = watcher or Watcher()
    begin(engine, folder, spec, study, watcher)
    try:
        return finish(engine, folder, spec, watcher, sleep)
    except KeyboardInterrupt:
        watcher.say("Interrupted: telling the tuning job in AWS to stop")
        stop(engine, folder)
        raise


def begin(engine: SageMakerEngine, folder: Path, spec: JobSpec, study: AmtStudy, watcher: Watcher) -> str:
    """Start a tuning job unless it is under way, and return its name in AWS; arguments and errors are as of `tune`."""
    _check(spec, study)
    folder.mkdir(parents=True, exist_ok=True)
    name = tuning_name(folder) or _new_name(folder, spec.name)
    there = _describe(engine, name)
    if there is None:
        _submit(engine, folder, name, spec, study, watcher)
    else:
        before = read_json(folder / CLOUD_RECORD).get("request")
        now = asked(_request(engine, folder, name, spec, study, watcher))
        status = there["HyperParameterTuningJobStatus"]
        refuse_another(f"study {name} in AWS is {status}", engine.ledger(spec).name, before, now)
    return name


def finish(
    engine: SageMakerEngine,
    folder: Path,
    spec: JobSpec,
    watcher: Watcher,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Follow a tuning job to its end, and return what came of it; arguments and errors are those of `tune`."""
    name, begun = tuning_name(folder), time.monotonic()
    while True:
        described, news = look(engine, folder)
        if news:
            watcher.say(news)
            watcher.on_event({"event": "amt", **_record(engine, name, described)})
        if described["HyperParameterTuningJobStatus"] in ENDED:
            break
        sleep(engine.settings.poll_seconds)
    engine.ledger(spec).strike("tuning-job", name)
    record = _record(engine, name, described)
    if is_recorded(spec):
        record["trials"] = [_judged(engine, folder, trial, spec, watcher) for trial in record["trials"]]
    write_json(folder / RECORD, record)
    reasons = _bill(engine, folder, record)
    watcher.say(spent(folder).words())
    best, failure = record["best"], ""
    if best is None:
        words = [described.get("FailureReason", "No trial completed"), *reasons[:1]]
        failure = f"tuning job {name} is {record['status']}. {'; the first trial that failed: '.join(words)}"
    JobFolder(folder).finish(
        record["status"],
        exit_code=int(best is None),
        failure=failure,
        metrics={} if best is None else {described[_CONFIG][_OBJECTIVE]["MetricName"]: best["objective"]},
        seconds=round(time.monotonic() - begun, 3),
    )
    if best is None:
        raise JobError(f"{failure}. Another --run begins anew; --warm-start {name} learns from this one")
    return record


def look(engine: SageMakerEngine, folder: Path) -> tuple[dict[str, Any], str]:
    """Return what AWS says of a study, and a line of how many trials are in each state, "" if that is as before.

    The line is added to the study's log.
    """
    name, log = tuning_name(folder), JobFolder(folder).logs
    described = engine.cloud.call("sagemaker", "DescribeHyperParameterTuningJob", HyperParameterTuningJobName=name)
    counters = described["TrainingJobStatusCounters"]
    states = ", ".join(f"{count} {state}" for state, count in counters.items() if count)
    line = f"{name}: {described['HyperParameterTuningJobStatus']}: {states or 'no trial yet'}"
    before = log.read_text(encoding="utf-8") if log.is_file() else ""
    if before.splitlines()[-1:] == [line]:
        return described, ""
    log.write_text(f"{before}{line}\n", encoding="utf-8")
    return described, line


def best_of(folder: Path) -> dict[str, Any]:
    """Return the hyperparameters of the best trial of a study that has ended; nothing where there is none."""
    best = read_json(folder / RECORD)["best"] if (folder / RECORD).is_file() else None
    return {**JobFolder(folder).read()["spec"]["hyperparameters"], **best["hyperparameters"]} if best else {}


def trial_folder(folder: Path, job: str) -> Path:
    """Return where the job of a trial lies in a study's folder."""
    return folder / "trials" / job


def trial_spec(spec: JobSpec, trial: Mapping[str, Any]) -> JobSpec:
    """Return what a trial of the record ran."""
    values = {**spec.hyperparameters, **trial["hyperparameters"]}
    return replace(spec, name=trial["training_job"], hyperparameters=values)


def stop(engine: SageMakerEngine, folder: Path) -> None:
    """Tell a tuning job and its trials to stop; nothing where it has ended."""
    name = tuning_name(folder)
    try:
        engine.cloud.call("sagemaker", "StopHyperParameterTuningJob", HyperParameterTuningJobName=name)
    except CloudError as error:
        if error.code != "ValidationException":
            raise


def _submit(engine: SageMakerEngine, folder: Path, name: str, spec: JobSpec, study: AmtStudy, watcher: Watcher) -> None:
    settings = engine.settings
    # A warm machine is kept between trials; after the last ones as many as run at once are kept in vain.
    warm = settings.keep_alive_seconds * study.max_parallel_jobs
    hours = ((spec.limits.max_run_seconds or settings.max_run_seconds) * study.jobs + warm) / 3600
    kind, count = instance_type(spec, settings), instance_count(spec, settings)
    before, region = spent(folder).dollars, engine.cloud.region
    if study.jobs > study.max_jobs:
        watcher.say(f"AWS runs every point of a grid: {study.jobs} trials, not max_jobs ({study.max_jobs})")
    tell_volume_key(kind, settings.kms_key, watcher.say)
    watcher.say(refuse_above(f"Tuning job {name}", kind, hours, count, settings.max_price, region, before))
    request = _request(engine, folder, name, spec, study, watcher)
    JobFolder(folder).begin(spec)
    engine.note(folder, {"max_jobs": study.jobs, "request": asked(request)})
    try:
        with engine.ledger(spec).creating("tuning-job", name, engine.cloud.region, kind):
            engine.cloud.call("sagemaker", "CreateHyperParameterTuningJob", **request)
    except CloudError as error:
        JobFolder(folder).finish("Failed", failure=str(error))
        raise


def _request(
    engine: SageMakerEngine, folder: Path, name: str, spec: JobSpec, study: AmtStudy, watcher: Watcher
) -> dict[str, Any]:
    """Upload what the trials need, and return the study's request."""
    training = engine.request(folder, name, spec, watcher)
    return tuning_request(
        name,
        training,
        study.space,
        study.objective,
        strategy=study.strategy,
        max_jobs=study.max_jobs,
        max_parallel_jobs=study.max_parallel_jobs,
        early_stopping=study.early_stopping,
        seed=study.seed,
        warm_start=study.warm_start,
        checkpoints=engine.settings.spot or bool(spec.checkpoint_location) or is_recorded(spec),
    )


def _record(engine: SageMakerEngine, name: str, described: Mapping[str, Any]) -> dict[str, Any]:
    trials = []
    for page in engine.cloud.pages(
        "sagemaker", "ListTrainingJobsForHyperParameterTuningJob", HyperParameterTuningJobName=name
    ):
        trials += [_trial(summary) for summary in page["TrainingJobSummaries"]]
    best = described.get("BestTrainingJob")
    return {
        "schema_version": 1,
        "tuning_job": name,
        "region": engine.cloud.region,
        "status": described["HyperParameterTuningJobStatus"],
        "best": _trial(best) if best and "FinalHyperParameterTuningJobObjectiveMetric" in best else None,
        "trials": trials,
    }


def _judged(
    engine: SageMakerEngine, folder: Path, trial: Mapping[str, Any], spec: JobSpec, watcher: Watcher
) -> dict[str, Any]:
    """Bring what was recorded of a trial home, and return the trial with what the rules say of it."""
    job = trial_folder(folder, trial["training_job"])
    with contextlib.suppress(JobError):  # its record says that it failed
        engine.adopt(job, trial["training_job"], trial_spec(spec, trial), watcher, outputs=False)
    for result in read_results(job):
        if result["status"] == "IssuesFound":
            watcher.say(f"{trial['training_job']}: {result['rule']}: {result['meaning']}")
    record = JobFolder(job).read()
    return {**trial, "rules": record["rules"], "profiler_rules": record["profiler_rules"]}


def _bill(engine: SageMakerEngine, folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Write down what each trial was billed for, and return why those that failed did so."""
    reasons = []
    for trial in record["trials"]:
        name = trial["training_job"]
        job = engine.cloud.call("sagemaker", "DescribeTrainingJob", TrainingJobName=name)
        resources = job["ResourceConfig"]
        if seconds := job.get("BillableTimeInSeconds"):
            add_bill(trial_folder(folder, name), name, resources["InstanceType"], resources["InstanceCount"], seconds)
        if job.get("FailureReason"):
            reasons.append(f"{name}: {job['FailureReason']}")
    return reasons


def _trial(summary: Mapping[str, Any]) -> dict[str, Any]:
    metric = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
    started, ended = (summary.get(key) for key in ("TrainingStartTime", "TrainingEndTime"))
    return {
        "training_job": summary["TrainingJobName"],
        "status": summary["TrainingJobStatus"],
        "started_at": None if started is None else started.isoformat(),
        "finished_at": None if ended is None else ended.isoformat(),
        "seconds": None if started is None or ended is None else round((ended - started).total_seconds(), 3),
        "hyperparameters": {key: _value(text) for key, text in summary["TunedHyperParameters"].items()},
        "objective": None if metric is None else metric["Value"],
    }


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check(spec: JobSpec, study: AmtStudy) -> None:
    mistakes = []
    if bool(study.minimize) == bool(study.maximize):
        mistakes.append("give the metric that decides: --minimize NAME or --maximize NAME")
    elif study.objective[1] not in {metric.name for metric in spec.metric_definitions}:
        known = ", ".join(metric.name for metric in spec.metric_definitions) or "there is none"
        mistakes.append(f"objective {study.objective[1]!r} has no metric definition; defined: {known}")
    both = [name for name in study.space if name in spec.hyperparameters]
    if both:
        mistakes.append(f"{', '.join(both)} is both fixed and searched; give one of the two")
    if study.strategy == "grid":
        numbers = [name for name, parameter in study.space.items() if not isinstance(parameter, CategoricalParameter)]
        if numbers:
            mistakes.append(f"a grid in AWS takes lists of values only; give one for {', '.join(numbers)}")
    if not study.space:
        mistakes.append("no range is searched; give --range")
    if mistakes:
        raise ConfigurationError(mistakes)


def _new_name(folder: Path, stem: str) -> str:
    """Return the tuning job's name in AWS, written down before it is used; at most 32 letters."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in stem)[: _NAME - 7].strip("-") or "tune"
    name = f"{plain}-{secrets.token_hex(3)}"
    write_json(folder / CLOUD_RECORD, {TUNING_JOB: name})
    return name


def _describe(engine: SageMakerEngine, name: str) -> dict[str, Any] | None:
    try:
        return engine.cloud.call("sagemaker", "DescribeHyperParameterTuningJob", HyperParameterTuningJobName=name)
    except CloudError as error:
        if is_missing(error):
            return None
        raise
