from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from finepoint.engines.debugging import debugger_configuration
from finepoint.engines.jobs import remove
from finepoint.engines.local import Watcher
from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.profiling import profiler_configuration
from finepoint.engines.records import JobFolder
from finepoint.engines.rehearsal import container
from finepoint.engines.rehearsal.faults import Fault, Kind
from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.rehearsal.shapes import problems
from finepoint.engines.sagemaker import source, submitted
from finepoint.engines.sagemaker.cleanup import cleanup
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.ledger import ledgers
from finepoint.engines.sagemaker.rates import add_bill, price, rate_table, spent
from finepoint.engines.sagemaker.requests import Places, training_request
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.training import SageMakerEngine, stop
from finepoint.engines.spec import Channel, JobSpec, Limits, Resources
from finepoint.errors import CloudError, ConfigurationError, JobError

# In the official toolkit's place, where a test is about states and not about scripts: it is ready in no time.
QUICK = """
import json, os, pathlib, signal, sys, threading
base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
values = {k: json.loads(v) for k, v in json.loads((base / "input/config/hyperparameters.json").read_text()).items()}
kept = base / "checkpoints" / "state.txt"
tries = int(kept.read_text()) + 1 if kept.exists() else 1
print("channels", sorted(os.listdir(base / "input/data")), flush=True)
print(f"try {tries} loss=0.25;", flush=True)
if values.get("fail"):
    (base / "output" / "failure").write_text("ExecuteUserScriptError:\\nExitCode 3\\nErrorMessage \\"no\\"")
    sys.exit(1)
(base / "model" / "weights.txt").write_text(f"try {tries}")
(base / "output" / "data" / "result.json").write_text("{}")
kept.write_text(str(tries))
if values.get("rule"):
    (kept.parent / "debug-output").mkdir()
    (kept.parent / "debug-output" / "stopped.txt").write_text(values["rule"])
if values.get("wait") and tries <= values["wait"]:
    threading.Event().wait()
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_TRAIN", QUICK)


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.txt").write_text("1")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print('never run here')\n")
    return JobSpec(
        "job",
        entry_point="train.py",
        source_dir=str(tmp_path / "code"),
        hyperparameters={"lr": 0.1, "name": "adam", "deep": {"a": [1, True, None]}},
        channels={"train": Channel(str(tmp_path / "data"), "FastFile")},
        metric_definitions=(MetricDefinition("loss", "loss=(.*?);"),),
    )


def jobs(status: str = "") -> list[str]:
    found = boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    return [job["TrainingJobName"] for job in found if status in ("", job["TrainingJobStatus"])]


def waiting(spec: JobSpec, tries: int = 1) -> JobSpec:
    return replace(spec, hyperparameters={"wait": tries})


def test_the_request_is_what_the_service_takes(spec: JobSpec, settings: SageMakerSettings) -> None:
    whole = replace(
        settings,
        kms_key="arn:aws:kms:us-east-1:123456789012:key/k",
        subnets=("subnet-1",),
        security_groups=("sg-1",),
        spot=True,
        tags={"team": "dogs"},
    )
    places = Places(
        "s3://photos/c.tar.gz", "train.py", {"train": "s3://photos/d/"}, "s3://photos/jobs", "s3://photos/k"
    )
    request = training_request("job-1", replace(spec, environment={"A": "b"}), whole, "eu-west-1", places)
    assert problems("CreateTrainingJob", request) == []
    hyperparameters = {name: json.loads(value) for name, value in request["HyperParameters"].items()}
    assert hyperparameters["deep"] == {"a": [1, True, None]}
    assert hyperparameters["sagemaker_program"] == "train.py"
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 1200}
    assert {tag["Key"]: tag["Value"] for tag in request["Tags"]} == {"team": "dogs", "finepoint": "job"}
    assert request["InputDataConfig"][0]["InputMode"] == "FastFile"


def test_what_does_not_fit_into_a_request_is_refused_at_once(spec: JobSpec, settings: SageMakerSettings) -> None:
    places = Places(
        "s3://photos/c.tar.gz", "train.py", {"train": "s3://photos/d/"}, "s3://photos/jobs", "s3://photos/k"
    )
    crowded = {**{f"h{number}": 1 for number in range(100)}, "long": "x" * 3000}
    with pytest.raises(ConfigurationError) as caught:
        training_request("j", replace(spec, hyperparameters=crowded), settings, "us-east-1", places)
    assert len(caught.value.mistakes) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profiler": profiler_configuration(), "resources": Resources(2)}, "several processes cannot be recorded"),
        ({"debugger": debugger_configuration(), "distribution": "torch_distributed"}, "cannot be recorded in AWS yet"),
        ({"checkpoint_location": "/tmp/kept"}, "must be an s3:// address"),
        ({"requirements": "offline"}, "offline has no meaning"),
    ],
)
def test_what_a_job_in_aws_would_not_do_is_refused_by_name(
    engine: SageMakerEngine, spec: JobSpec, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        engine.run_job(tmp_path / "job", replace(spec, **changes))
    assert jobs() == []


def test_the_rehearsal_says_that_it_has_one_host(engine: SageMakerEngine, spec: JobSpec, tmp_path: Path) -> None:
    with pytest.raises(CloudError, match="InstanceCount must be 1"):
        engine.run_job(tmp_path / "job", replace(spec, resources=Resources(2)))
    assert JobFolder(tmp_path / "job").read()["status"] == "Failed"  # it does not run for ever


def test_a_script_may_read_nothing(engine: SageMakerEngine, spec: JobSpec, tmp_path: Path) -> None:
    lines: list[str] = []
    watcher = Watcher(on_line=lambda host, line: lines.append(line))
    engine.run_job(tmp_path / "job", replace(spec, channels={}), watcher)
    assert "channels []\n" in lines


def test_a_job_runs_and_its_results_come_home(engine: SageMakerEngine, spec: JobSpec, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "job"
    result = engine.run_job(folder, spec, Watcher(on_line=lambda host, line: lines.append(line)))
    assert (result.status, result.metrics) == ("Completed", {"loss": 0.25})
    assert lines == ["channels ['train']\n", "try 1 loss=0.25;\n"]
    assert (folder / "model" / "weights.txt").read_text() == "try 1"
    assert (folder / "output" / "data" / "result.json").read_text() == "{}"
    assert JobFolder(folder).read()["status"] == "Completed"
    assert [one.gone for one in ledgers()[0].resources()] == [True]


@pytest.mark.parametrize("kind", ["throttle", "error", "timeout", "cut"])
def test_a_lost_answer_does_not_make_a_second_job(
    engine: SageMakerEngine, rehearsal: Rehearsal, spec: JobSpec, tmp_path: Path, kind: Kind
) -> None:
    rehearsal.faults.add(Fault("CreateTrainingJob", kind))
    rehearsal.faults.add(Fault("DescribeTrainingJob", kind, times=2, after=1))
    assert engine.run_job(tmp_path / "job", spec).status == "Completed"
    assert len(jobs()) == 1


def test_a_job_that_is_under_way_is_found_again(engine: SageMakerEngine, spec: JobSpec, tmp_path: Path) -> None:
    name = engine.submit(tmp_path / "job", spec, Watcher())
    assert engine.run_job(tmp_path / "job", spec).status == "Completed"
    assert jobs() == [name]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hyperparameters": {"lr": 0.2}}, r"HyperParameters\.lr was '0\.1' and is '0\.2'"),
        ({"limits": Limits(max_run_seconds=60)}, "MaxRuntimeInSeconds was 600 and is 60"),
        ({"environment": {"TOKEN": "other"}}, "Environment was not given and is other variables"),
        ({"metric_definitions": ()}, r"MetricDefinitions\[loss\]\.Regex was 'loss=\(\.\*\?\);' and is not given"),
        ({"code": "print(2)"}, "HyperParameters.sagemaker_submit_directory was .* and is "),
        ({"data": "2"}, r"InputDataConfig\[train\]\.DataSource\.S3DataSource\.S3Uri was .* and is "),
        ({"settings": {"instance_type": "ml.m5.large"}}, r"InstanceType was 'ml\.m5\.xlarge' and is 'ml\.m5\.large'"),
        ({"settings": {"image": "mine:1"}}, "TrainingImage was .* and is 'mine:1'"),
    ],
)
def test_a_job_is_not_taken_for_another_that_is_asked_for_under_its_name(
    engine: SageMakerEngine, spec: JobSpec, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    name = engine.submit(tmp_path / "job", spec, Watcher())
    if code := changes.pop("code", ""):
        (tmp_path / "code" / "train.py").write_text(code)
    if data := changes.pop("data", ""):
        (tmp_path / "data" / "a" / "1.txt").write_text(data)
    engine.settings = replace(engine.settings, **changes.pop("settings", {}))
    with pytest.raises(ConfigurationError, match=words):
        engine.run_job(tmp_path / "job", replace(spec, **changes))
    assert jobs() == [name]
    assert "other" not in (tmp_path / "job" / "sagemaker.json").read_text()


def test_a_job_of_another_version_of_finepoint_is_gone_on_with_and_said_so(
    engine: SageMakerEngine, spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(spec, entry_point="", source_dir="", module="finepoint.training", metric_definitions=())
    said: list[str] = []
    name = engine.submit(tmp_path / "job", own, Watcher())
    monkeypatch.setattr(source, "build_wheel", lambda: ("finepoint-9-py3-none-any.whl", b"other"))
    assert engine.submit(tmp_path / "job", own, Watcher(say=said.append)) == name
    assert said[-2] == f"warning: job {name} was begun by another version of finepoint"
    with pytest.raises(ConfigurationError, match="lr was"):
        engine.submit(tmp_path / "job", replace(own, hyperparameters={"lr": 0.2}), Watcher())


def test_a_failure_of_the_script_is_told_in_its_words(engine: SageMakerEngine, spec: JobSpec, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="ExitCode 3"):
        engine.run_job(tmp_path / "job", replace(spec, hyperparameters={"fail": True}))
    assert JobFolder(tmp_path / "job").read()["exit_code"] == 3


def test_a_job_that_a_rule_ended_is_stopped_and_says_by_which(
    engine: SageMakerEngine, spec: JobSpec, tmp_path: Path
) -> None:
    words = "the rule NotANumber fired"
    debugged = replace(spec, hyperparameters={"rule": words}, debugger=debugger_configuration())
    result = engine.run_job(tmp_path / "job", debugged)
    assert (result.status, result.failure) == ("Stopped", words)
    assert JobFolder(tmp_path / "job").read()["status"] == "Stopped"


def test_want_of_machines_is_told_and_the_next_try_is_another_job(
    engine: SageMakerEngine, rehearsal: Rehearsal, spec: JobSpec, tmp_path: Path
) -> None:
    rehearsal.faults.add(Fault("CreateTrainingJob", "capacity"))
    with pytest.raises(JobError, match="CapacityError"):
        engine.run_job(tmp_path / "job", spec)
    assert engine.run_job(tmp_path / "job", spec).status == "Completed"
    assert len(jobs()) == 2
    bill = spent(tmp_path)
    assert (bill.jobs, bill.dollars > 0) == (1, True)  # the job that got no machine was not billed
    assert bill.words().startswith(f"Billed in AWS so far: 1 job, {bill.seconds} s, about 0.0")


def test_a_spot_job_goes_on_from_its_checkpoints(
    settings: SageMakerSettings, cloud: Cloud, rehearsal: Rehearsal, spec: JobSpec, tmp_path: Path
) -> None:
    rehearsal.faults.add(Fault("CreateTrainingJob", "interrupt"))
    said: list[str] = []
    engine = SageMakerEngine(replace(settings, spot=True), cloud)
    result = engine.run_job(tmp_path / "job", waiting(spec), Watcher(say=said.append))
    assert result.status == "Completed"
    assert (tmp_path / "job" / "model" / "weights.txt").read_text() == "try 2"
    described = boto3.client("sagemaker").describe_training_job(TrainingJobName=jobs()[0])
    states = [entry["Status"] for entry in described["SecondaryStatusTransitions"]]
    assert states.index("Interrupted") < states.index("Uploading")
    assert described["EnableManagedSpotTraining"]


def test_a_job_is_stopped_after_its_time(engine: SageMakerEngine, spec: JobSpec, tmp_path: Path) -> None:
    result = engine.run_job(tmp_path / "job", replace(waiting(spec, 9), limits=Limits(max_run_seconds=1)))
    assert (result.status, result.failure) == ("Stopped", "it ran longer than max_run")


def test_a_job_is_stopped_on_request(engine: SageMakerEngine, cloud: Cloud, spec: JobSpec, tmp_path: Path) -> None:
    asked: list[str] = []

    def on_line(host: str, line: str) -> None:
        if "loss" in line and not asked:
            asked.append(line)
            stop(cloud, tmp_path / "job")

    result = engine.run_job(tmp_path / "job", waiting(spec, 9), Watcher(on_line=on_line))
    assert result.status == "Stopped"
    assert (tmp_path / "job" / "model" / "weights.txt").exists()  # what it had made is not lost


def test_an_interrupt_stops_the_job_in_aws(
    engine: SageMakerEngine, rehearsal: Rehearsal, spec: JobSpec, tmp_path: Path
) -> None:
    def on_line(host: str, line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run_job(tmp_path / "job", waiting(spec, 9), Watcher(on_line=on_line))
    rehearsal.platform.jobs[jobs()[0]].join(30)
    assert jobs("Stopped") == jobs()


def test_what_may_cost_too_much_is_not_begun(
    settings: SageMakerSettings, cloud: Cloud, rehearsal: Rehearsal, spec: JobSpec, tmp_path: Path
) -> None:
    changed = {
        "above max_price": replace(settings, max_price=0.01),
        "FINEPOINT_RATES": replace(settings, max_price=1.0, instance_type="ml.x9.huge"),
    }
    for words, costly in changed.items():
        engine = SageMakerEngine(costly, cloud)
        with pytest.raises(ConfigurationError, match=words):
            engine.run_job(tmp_path / words.replace(" ", "-"), spec)
    operations = {operation for _, operation in rehearsal.faults.calls}
    assert not operations & {"PutObject", "CreateTrainingJob"}


def test_the_bound_is_of_the_whole_run_with_warm_machines_where_the_rates_are_known(
    settings: SageMakerSettings, cloud: Cloud, spec: JobSpec, tmp_path: Path
) -> None:
    hour = price(settings.instance_type, 1.0) or 0.0
    bounded = replace(settings, max_run_seconds=3600, max_price=1.5 * hour)
    add_bill(tmp_path / "run" / "tuning", "before", settings.instance_type, 1, 3600)
    cases = {
        "were spent by the run before, above max_price": SageMakerEngine(bounded, cloud, run="run"),
        "for 2 h": SageMakerEngine(replace(bounded, keep_alive_seconds=3600), cloud),
        "it runs in eu-west-1": SageMakerEngine(bounded, Cloud("eu-west-1")),
    }
    for words, engine in cases.items():
        with pytest.raises(ConfigurationError, match=words):
            engine.submit(tmp_path / "run" / "training", spec, Watcher())


def test_what_a_job_cost_whose_driver_was_killed_counts(
    engine: SageMakerEngine, spec: JobSpec, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    name = engine.submit(tmp_path / "job", spec, Watcher())
    rehearsal.platform.jobs[name].join(60)
    rehearsal.platform.jobs[name].status = "Failed"
    engine.submit(tmp_path / "job", spec, Watcher())
    assert spent(tmp_path / "job").jobs == 1


@pytest.mark.parametrize("missing", ["region", "date", "dollars_per_hour"])
def test_a_file_of_rates_says_where_and_since_when_they_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    table = {"region": "eu-west-1", "date": "2026-11-01", "dollars_per_hour": {"ml.m5.xlarge": 0.3}}
    del table[missing]
    (tmp_path / "rates.json").write_text(json.dumps(table))
    monkeypatch.setenv("FINEPOINT_RATES", str(tmp_path / "rates.json"))
    with pytest.raises(ConfigurationError, match=f"must have {missing}"):
        rate_table()


class Killed(BaseException):
    """The process is gone."""


def killing(cloud: Cloud, number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the account's call of that number be the last, once it was done; return the list that calls are added to."""
    done: list[str] = []
    call: Callable[..., Any] = Cloud.call

    def until(self: Cloud, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = call(self, service, operation, **parameters)
        done.append(operation)
        if len(done) == number:
            raise Killed
        return answer

    monkeypatch.setattr(Cloud, "call", until)
    return done


def test_a_kill_at_any_call_leaves_nothing_after_cleanup(
    engine: SageMakerEngine, cloud: Cloud, rehearsal: Rehearsal, spec: JobSpec, tmp_path: Path
) -> None:
    seen: set[str] = set()
    for number in range(1, 40):
        with pytest.MonkeyPatch.context() as patch:
            done = killing(cloud, number, patch)
            try:
                engine.run_job(tmp_path / f"job-{number}", replace(waiting(spec, 9), name=f"job-{number}"))
            except Killed:
                seen.add(done[-1])
            except CloudError as error:
                raise AssertionError(f"call {number} ({done[-1]}): {error}") from error
        if done[-2:] == ["DescribeTrainingJob", "DescribeLogStreams"]:
            break
    for ledger in ledgers():
        cleanup(ledger.name, lambda region: cloud)
    for job in rehearsal.platform.jobs.values():
        job.join(30)
    assert {"PutObject", "CreateTrainingJob", "DescribeTrainingJob"} <= seen
    assert jobs("InProgress") == jobs("Stopping") == []
    assert all(one.gone for ledger in ledgers() for one in ledger.resources())


@pytest.mark.parametrize("operation", ["PutObject", "CreateTrainingJob"])
def test_a_job_that_a_killed_command_never_began_is_known_as_such_and_can_be_removed(
    engine: SageMakerEngine, cloud: Cloud, spec: JobSpec, tmp_path: Path, operation: str
) -> None:
    call: Callable[..., Any] = Cloud.call

    def dies(self: Cloud, service: str, asked: str, **parameters: Any) -> Any:
        if asked == operation:
            raise Killed
        return call(self, service, asked, **parameters)

    folder = tmp_path / "job"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Cloud, "call", dies)
        engine.run_job(folder, spec)
    if operation == "CreateTrainingJob":
        submitted.stop(folder)
        assert "AWS has no such job" in submitted.wait(folder, Watcher())["failure"]
        assert [one.was_there for one in cleanup("job", lambda region: cloud)] == [False]
        remove(folder)
    assert engine.run_job(folder, spec).status == "Completed"  # the same command begins it


PIPED = """
import os, pathlib
base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "input" / "data"
for epoch in (0, 1):
    with open(base / f"train_{epoch}", "rb") as stream:
        print(f"epoch {epoch}:", stream.read().decode(), flush=True)
print("listed", sorted(os.listdir(base / "listed")), flush=True)
"""


def test_a_channel_may_be_a_stream_and_a_manifest_names_what_is_read(
    engine: SageMakerEngine, spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_TRAIN", PIPED)
    for name in ("x", "y", "z"):
        boto3.client("s3").put_object(Bucket="photos", Key=f"all/{name}.txt", Body=name.encode())
    listed = tmp_path / "some.manifest"
    listed.write_text(json.dumps([{"prefix": "s3://photos/all/"}, "x.txt", "z.txt"]))
    channels = {"train": Channel(str(tmp_path / "data"), "Pipe"), "listed": Channel(str(listed))}
    lines: list[str] = []
    watcher = Watcher(on_line=lambda host, line: lines.append(line.strip()))
    assert engine.run_job(tmp_path / "job", replace(spec, channels=channels, metric_definitions=()), watcher).status
    assert lines == ["epoch 0: 1", "epoch 1: 1", "listed ['x.txt', 'z.txt']"]
