from __future__ import annotations

import base64
import json
import tarfile
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import typer

from finepoint.cli import cleanup as cleanup_command
from finepoint.cli import query
from finepoint.engines.rehearsal import hosting
from finepoint.engines.rehearsal.faults import Fault, Kind
from finepoint.engines.rehearsal.hosting import TransformJob
from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.rehearsal.shapes import problems
from finepoint.engines.sagemaker import endpoints, transfer
from finepoint.engines.sagemaker.asynchronous import ask, is_asynchronous
from finepoint.engines.sagemaker.batch import transform
from finepoint.engines.sagemaker.cleanup import cleanup
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.endpoints import deploy, list_endpoints, predict, undeploy
from finepoint.engines.sagemaker.hosting import Hosting, Update, update_request
from finepoint.engines.sagemaker.ledger import ledgers
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.errors import CloudError, ConfigurationError, EndpointError, JobError, NotFoundError, RequestError


class Echo(hosting.Hosted):
    """In the official toolkit's place, where a test is about states: answers with what it was sent."""

    def start(self) -> None:
        if b"broken" in self._platform.objects.read(self._container["ModelDataUrl"]):
            raise hosting.HostingError("did not pass the ping")

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        return (500, b"boom", "text/plain") if body == b"bad" else (200, body.upper(), content_type)


@pytest.fixture(autouse=True)
def _echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "Hosted", Echo)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "dogs-7.tar.gz"
    (tmp_path / "weights.txt").write_text("1")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "weights.txt", "weights.txt")
    return path


def left(rehearsal: Rehearsal) -> list[dict[str, Any]]:
    platform = rehearsal.platform
    return [held for held in (platform.endpoints, platform.endpoint_configs, platform.models) if held]  # type: ignore[misc]


def test_an_endpoint_is_made_asked_listed_and_deleted(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    said: list[str] = []
    found = deploy(cloud, settings, package, "dogs", say=said.append)
    assert (found.status, found.mode, found.instance_type, found.run) == (
        "InService",
        "realtime",
        "ml.m5.large",
        "dogs",
    )
    assert "2.76 US dollars" in said[0]  # a day of 0.115 an hour
    assert predict(cloud, "dogs", b"abc", "image/jpeg") == (b"ABC", "image/jpeg")
    with pytest.raises(RequestError, match="boom") as caught:
        predict(cloud, "dogs", b"bad", "image/jpeg")
    assert caught.value.status == 500
    assert len(undeploy(cloud, "dogs")) == 3
    assert left(rehearsal) == []
    assert all(one.gone for one in ledgers()[0].resources())
    with pytest.raises(NotFoundError):
        predict(cloud, "dogs", b"abc", "image/jpeg")


def test_deploying_again_changes_nothing_and_another_model_replaces_it(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    deploy(cloud, settings, package, "dogs")
    deploy(cloud, settings, package, "dogs")
    assert len(rehearsal.platform.models) == 1
    package.write_bytes(package.read_bytes() + b"\0")
    deploy(cloud, settings, package, "dogs")
    assert ("sagemaker", "UpdateEndpoint") in rehearsal.faults.calls
    assert ("sagemaker", "ListEndpoints") not in rehearsal.faults.calls  # which costs calls for each of the account
    assert len(list_endpoints(cloud)) == 1
    assert len(rehearsal.platform.models) == len(rehearsal.platform.endpoint_configs) == 1  # the earlier ones are gone
    standing = {one.kind: one.name for one in ledgers()[0].resources() if not one.gone}
    assert standing.keys() == {"model", "endpoint-config", "endpoint"}
    assert {standing["model"]} == rehearsal.platform.models.keys()
    cleanup("dogs", lambda region: cloud)
    assert left(rehearsal) == []


@pytest.mark.parametrize(
    ("changes", "instances"),
    [
        ({"inference_instance_type": "ml.m5.xlarge"}, 1),
        ({"inference_image": "mine:1"}, 1),
        ({"role": "arn:aws:iam::123456789012:role/other"}, 1),
        ({"subnets": ("subnet-1",), "security_groups": ("sg-1",)}, 1),
        ({"kms_key": "arn:aws:kms:us-east-1:123456789012:key/k"}, 1),
        ({"tags": {"team": "dogs"}}, 1),
        ({"bucket": "photos", "prefix": "other"}, 1),
        ({}, 2),
    ],
)
def test_whatever_is_asked_otherwise_updates_the_endpoint(
    cloud: Cloud,
    settings: SageMakerSettings,
    package: Path,
    rehearsal: Rehearsal,
    changes: dict[str, Any],
    instances: int,
) -> None:
    deploy(cloud, settings, package, "dogs")
    before = rehearsal.platform.endpoints["dogs"].config
    found = deploy(cloud, replace(settings, **changes), package, "dogs", hosting=Hosting(count=instances))
    assert rehearsal.platform.endpoints["dogs"].config != before
    assert found.instance_type == changes.get("inference_instance_type", "ml.m5.large")
    assert len(rehearsal.platform.models) == len(rehearsal.platform.endpoint_configs) == 1


def test_what_an_interrupted_update_left_goes_with_the_next_one(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    deploy(cloud, settings, package, "dogs", run="first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoints, "_wait", _die)
        with pytest.raises(Killed):
            deploy(cloud, replace(settings, prefix="other"), package, "dogs", run="first")
    assert len(rehearsal.platform.models) == 2
    deploy(cloud, replace(settings, prefix="third"), package, "dogs", run="first")
    assert len(rehearsal.platform.models) == len(rehearsal.platform.endpoint_configs) == 1
    undeploy(cloud, "dogs", "first")
    assert left(rehearsal) == []


def test_nothing_is_deleted_while_an_update_runs_nor_what_another_endpoint_or_somebody_else_made(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    seen: list[set[str]] = []

    def starting(self: Echo) -> None:
        seen.append(set(rehearsal.platform.models))

    deploy(cloud, settings, package, "dogs", run="first")
    deploy(cloud, settings, package, "cats", run="first")
    role = settings.role
    where = {"Image": "mine:1", "ModelDataUrl": settings.uri("models")}
    boto3.client("sagemaker").create_model(ModelName="own", PrimaryContainer=where, ExecutionRoleArn=role)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Echo, "start", starting)
        deploy(cloud, replace(settings, prefix="other"), package, "dogs", run="first")
    assert [len(models) for models in seen] == [4]
    assert len(rehearsal.platform.models) == 3
    undeploy(cloud, "dogs", "first")
    assert {name[:4] for name in rehearsal.platform.models} == {"cats", "own"}
    assert len(rehearsal.platform.endpoint_configs) == 1


def test_an_endpoint_that_failed_is_made_anew(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoints, "undeploy", _die)
        broken = package.with_name("broken.tar.gz")
        broken.write_bytes(b"broken")
        with pytest.raises(Killed):
            deploy(cloud, settings, broken, "dogs")
    assert deploy(cloud, settings, package, "dogs").status == "InService"
    assert len(rehearsal.platform.models) == len(rehearsal.platform.endpoint_configs) == 1


def _die(*arguments: Any) -> Any:
    raise Killed


@pytest.mark.parametrize("operation", ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"])
def test_what_aws_refuses_to_make_is_written_down_as_refused(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal, operation: str
) -> None:
    rehearsal.faults.add(Fault(operation, "expired"))
    with pytest.raises(CloudError, match="have expired"):
        deploy(cloud, settings, package, "dogs")
    (refused,) = [one for one in ledgers()[0].resources() if one.refused]
    assert refused.gone
    asked = cleanup("dogs", lambda region: cloud)
    assert refused.name not in [one.resource.name for one in asked if one.resource.kind == refused.kind]
    assert left(rehearsal) == []


def test_what_stands_is_not_forgotten_when_making_it_again_is_refused(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    deploy(cloud, settings, package, "dogs")
    rehearsal.faults.add(Fault("CreateModel", "expired"))
    with pytest.raises(CloudError, match="have expired"):
        deploy(cloud, settings, package, "dogs")
    assert not any(one.gone for one in ledgers()[0].resources())
    assert predict(cloud, "dogs", b"abc", "image/jpeg")[0] == b"ABC"


def test_what_an_endpoint_cost_is_an_estimate_once_its_machines_were_others(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    assert not deploy(cloud, settings, package, "dogs").estimated
    rehearsal.platform.endpoints["dogs"].created -= timedelta(hours=10)
    (found,) = list_endpoints(cloud)
    assert (round(found.dollars or 0, 2), found.estimated) == (1.15, True)  # its configuration is younger
    grown = deploy(cloud, settings, package, "cats", hosting=Hosting(count=2, max_count=4, scale_at=300.0))
    assert grown.estimated


def test_a_model_that_does_not_start_leaves_nothing(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    package.write_bytes(b"broken")
    with pytest.raises(EndpointError, match="did not pass the ping"):
        deploy(cloud, settings, package, "dogs")
    assert left(rehearsal) == []


@pytest.mark.parametrize("kind", ["throttle", "error", "timeout"])
@pytest.mark.parametrize("operation", ["CreateModel", "CreateEndpointConfig", "CreateEndpoint", "DeleteEndpoint"])
def test_faults_that_pass_are_not_seen(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal, kind: Kind, operation: str
) -> None:
    rehearsal.faults.add(Fault(operation, kind))
    deploy(cloud, settings, package, "dogs")
    undeploy(cloud, "dogs")
    assert left(rehearsal) == []


def test_a_serverless_endpoint_has_no_machines(cloud: Cloud, settings: SageMakerSettings, package: Path) -> None:
    found = deploy(cloud, replace(settings, max_price=0.01), package, "dogs", hosting=Hosting("serverless"))
    assert (found.mode, found.instance_type, found.dollars) == ("serverless", "", None)


def test_an_asynchronous_endpoint_answers_in_s3(cloud: Cloud, settings: SageMakerSettings, package: Path) -> None:
    assert deploy(cloud, settings, package, "dogs", hosting=Hosting("async", 2)).mode == "async"
    assert is_asynchronous(cloud, "dogs")
    assert ask(cloud, settings, "dogs", b"abc", "image/jpeg") == (b"ABC", "image/jpeg")
    with pytest.raises(RequestError, match=r"^boom$") as caught:
        ask(cloud, settings, "dogs", b"bad", "image/jpeg")
    assert caught.value.status == 500
    with pytest.raises(NotFoundError, match="no endpoint 'cats'"):
        ask(cloud, settings, "cats", b"abc", "image/jpeg")


def test_an_asynchronous_answer_that_does_not_come_is_told_with_its_place(
    cloud: Cloud, settings: SageMakerSettings, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(cloud, settings, package, "dogs", hosting=Hosting("async"))
    places = ("s3://photos/finepoint/answers/1.out", "s3://photos/finepoint/answers/failures/1-error.out")
    monkeypatch.setattr(hosting.Endpoint, "invoke_async", lambda *given: places)  # and nothing more
    waits: list[float] = []
    with pytest.raises(EndpointError, match=r"not answered for 1 s; .* s3://photos/finepoint/answers/1\.out, or the"):
        ask(cloud, settings, "dogs", b"abc", "image/jpeg", timeout=1.0, sleep=waits.append)
    assert 1.0 <= sum(waits) < 1.2


def test_images_are_asked_of_an_asynchronous_endpoint(
    cloud: Cloud,
    settings: SageMakerSettings,
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = {"predictions": [{"label": "a", "probability": 0.9, "probabilities": {"a": 0.9, "b": 0.1}}]}
    body = json.dumps(answer).encode()
    monkeypatch.setattr(Echo, "invoke", lambda self, *given: (200, body, "application/json"))
    deploy(cloud, settings, package, "dogs", hosting=Hosting("async"))
    (tmp_path / "finepoint.toml").write_text(f'[sagemaker]\nrole = "{settings.role}"\nbucket = "photos"\n')
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.chdir(tmp_path)
    query.command("dogs", [Path("a.png")], top=1, engine="sagemaker", json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["label"], found["probabilities"]) == ("a", {"a": 0.9})


def test_a_dear_endpoint_is_not_made(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    with pytest.raises(ConfigurationError, match=r"A day of endpoint dogs costs at most 2\.76"):
        deploy(cloud, replace(settings, max_price=1.0), package, "dogs")
    assert left(rehearsal) == []


def test_a_forgotten_endpoint_of_somebody_else_is_shown(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    deploy(cloud, settings, package, "dogs")
    rehearsal.platform.tags.clear()
    assert [(found.name, found.run) for found in list_endpoints(cloud)] == [("dogs", "")]


def test_a_folder_is_predicted_by_a_batch_transform(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name in ("1.jpg", "a/2.jpg"):
        (tmp_path / "images" / name).write_text(name)
    assert transform(cloud, settings, package, tmp_path / "images", tmp_path / "out") == 2
    assert (tmp_path / "out" / "a" / "2.jpg.out").read_text() == "A/2.JPG"
    assert left(rehearsal) == []
    (tmp_path / "images" / "3.jpg").write_text("bad")
    with pytest.raises(JobError, match="is Failed"):
        transform(cloud, settings, package, tmp_path / "images", tmp_path / "other")
    assert left(rehearsal) == []


def folder_of(tmp_path: Path, *names: str) -> Path:
    (tmp_path / "images").mkdir(exist_ok=True)
    for name in names:
        (tmp_path / "images" / name).write_text(name)
    return tmp_path / "images"


def test_a_batch_transform_runs_in_the_network_and_with_the_key_of_the_settings(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    images, seen = folder_of(tmp_path, "1.jpg"), dict[str, Any]()
    key = "arn:aws:kms:us-east-1:123456789012:key/1"
    private = replace(settings, subnets=("s-1",), security_groups=("g-1",), kms_key=key)

    def look(seconds: float) -> None:
        seen.update(next(iter(rehearsal.platform.models.values())))

    transform(cloud, private, package, images, tmp_path / "out", sleep=look)
    (job,) = rehearsal.platform.transforms.values()
    assert seen["VpcConfig"] == {"Subnets": ["s-1"], "SecurityGroupIds": ["g-1"]}
    assert job.request["TransformOutput"]["KmsKeyId"] == job.request["TransformResources"]["VolumeKmsKeyId"] == key


def test_a_repeated_batch_transform_is_the_same_job_and_a_stopped_one_is_not_gone_on_with(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    images = folder_of(tmp_path, "1.jpg")
    for name in ("one", "two"):
        assert transform(cloud, settings, package, images, tmp_path / name) == 1
    assert len(rehearsal.platform.transforms) == 1
    next(iter(rehearsal.platform.transforms.values())).status = "Stopped"
    transform(cloud, settings, package, images, tmp_path / "three")
    folder_of(tmp_path, "2.jpg")
    transform(cloud, settings, package, images, tmp_path / "four")
    assert len(rehearsal.platform.transforms) == 3


def test_a_batch_transform_is_bounded_in_price_and_stopped_at_its_time(
    cloud: Cloud,
    settings: SageMakerSettings,
    package: Path,
    rehearsal: Rehearsal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = folder_of(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(ConfigurationError, match="above max_price"):
        transform(cloud, replace(settings, max_price=0.001), package, images, tmp_path / "out")
    held = threading.Event()
    monkeypatch.setattr(Echo, "invoke", lambda self, *given: (held.wait(60), (200, b"{}", "application/json"))[1])
    monkeypatch.setattr(TransformJob, "stop", lambda self, stop=TransformJob.stop: (stop(self), held.set()))
    short = replace(settings, max_run_seconds=1)
    with pytest.raises(JobError, match=r"stopped after max_run_seconds \(1\)"):
        transform(cloud, short, package, images, tmp_path / "out")
    assert left(rehearsal) == []


def test_an_interrupt_stops_a_batch_transform_and_deletes_its_model(
    cloud: Cloud,
    settings: SageMakerSettings,
    package: Path,
    rehearsal: Rehearsal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = threading.Event()
    monkeypatch.setattr(Echo, "invoke", lambda self, *given: (held.wait(60), (200, b"{}", "application/json"))[1])
    interrupts = [KeyboardInterrupt]

    def sleep(seconds: float) -> None:
        if interrupts:
            raise interrupts.pop()
        held.set()

    said: list[str] = []
    images = folder_of(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(KeyboardInterrupt):
        transform(cloud, settings, package, images, tmp_path / "out", say=said.append, sleep=sleep)
    assert [job.status for job in rehearsal.platform.transforms.values()] == ["Stopped"]
    assert "Interrupted: stopping batch transform" in said[-1]
    assert left(rehearsal) == []
    assert all(one.gone for ledger in ledgers() for one in ledger.resources())


def test_a_kill_at_any_call_of_a_batch_transform_leaves_nothing_after_cleanup(
    cloud: Cloud,
    settings: SageMakerSettings,
    package: Path,
    rehearsal: Rehearsal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "WORKERS", 1)  # so that calls have an order
    killed: set[str] = set()
    for number in range(1, 40):
        images = folder_of(tmp_path, "1.jpg")
        (images / "1.jpg").write_text(str(number))
        with pytest.MonkeyPatch.context() as patch:
            done = killing(number, patch)
            try:
                transform(cloud, settings, package, images, tmp_path / "out")
                break
            except Killed:
                killed.add(done[-1])
    assert {"CreateModel", "CreateTransformJob", "DescribeTransformJob"} <= killed
    for ledger in ledgers():
        cleanup(ledger.name, lambda region: cloud)
    assert left(rehearsal) == []
    assert "InProgress" not in {job.status for job in rehearsal.platform.transforms.values()}


def test_cleanup_goes_on_where_aws_refuses_and_names_what_is_left(
    cloud: Cloud,
    settings: SageMakerSettings,
    package: Path,
    rehearsal: Rehearsal,
    capsys: pytest.CaptureFixture[str],
) -> None:
    deploy(cloud, settings, package, "dogs")
    rehearsal.faults.add(Fault("DeleteEndpoint", "expired", times=9))
    rehearsal.faults.add(Fault("DeleteModel", "expired", times=9))
    with pytest.raises(typer.Exit) as caught:
        cleanup_command.command("dogs")
    assert caught.value.exit_code == 1
    told = capsys.readouterr()
    assert "endpoint-config" in told.out
    assert told.err.startswith("error: endpoint dogs in us-east-1 is left")
    assert told.err.count("is left: ") == 2
    assert {name for held in left(rehearsal) for name in held} == {"dogs", *rehearsal.platform.models}
    rehearsal.faults.clear()
    cleanup_command.command("dogs")
    assert left(rehearsal) == []


def test_an_endpoint_grows_is_captured_and_updated_in_parts(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    scaling = boto3.client("application-autoscaling")
    growing = Hosting(count=2, max_count=4, scale_at=300.0, capture_percent=100, update="rolling")
    said: list[str] = []
    deploy(cloud, settings, package, "dogs", hosting=growing, say=said.append)
    assert "11.04 US dollars" in said[0]  # four machines for a day
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 4)
    (policy,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 300.0
    predict(cloud, "dogs", b"abc", "image/jpeg")
    (key,) = rehearsal.platform.objects.keys(settings.uri("captured"))
    captured = json.loads(rehearsal.platform.objects.read(f"s3://photos/{key}"))["captureData"]
    assert base64.b64decode(captured["endpointOutput"]["data"]) == b"ABC"
    package.write_bytes(package.read_bytes() + b"\0")
    deploy(cloud, settings, package, "dogs", hosting=Hosting(count=2, update="canary"))
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
    cleanup("dogs", lambda region: cloud)
    assert left(rehearsal) == []


@pytest.mark.parametrize("update", ["all-at-once", "canary", "rolling"])
def test_an_update_is_what_the_service_takes(update: Update) -> None:
    more = update_request(Hosting(count=2, update=update))
    assert problems("UpdateEndpoint", {"EndpointName": "dogs", "EndpointConfigName": "dogs-1", **more}) == []


def test_a_model_that_does_not_start_does_not_replace_the_one_that_answers(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    deploy(cloud, settings, package, "dogs")
    package.write_bytes(b"broken")
    with pytest.raises(EndpointError, match="serves the model that it had"):
        deploy(cloud, settings, package, "dogs")
    assert predict(cloud, "dogs", b"abc", "image/jpeg")[0] == b"ABC"
    assert len(rehearsal.platform.models) == len(rehearsal.platform.endpoint_configs) == 1
    undeploy(cloud, "dogs")
    assert left(rehearsal) == []


def test_all_mistakes_of_hosting_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Hosting("serverless", 0, 3, 0.0, 101, "canary")
    assert len(caught.value.mistakes) == 5


class Killed(BaseException):
    """The process is gone."""


def killing(number: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Let the call of that number be the last, once it was done; return the list that calls are added to."""
    done: list[str] = []
    call = Cloud.call

    def until(self: Cloud, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        answer = call(self, service, operation, **parameters)
        done.append(operation)
        if len(done) == number:
            if "Body" in answer:
                answer["Body"].close()  # as the end of a process does
            raise Killed
        return answer

    patch.setattr(Cloud, "call", until)
    return done


def test_a_kill_at_any_call_of_deploying_leaves_nothing_after_cleanup(
    cloud: Cloud, settings: SageMakerSettings, package: Path, rehearsal: Rehearsal
) -> None:
    killed: set[str] = set()
    for number in range(1, 40):
        with pytest.MonkeyPatch.context() as patch:
            done = killing(number, patch)
            try:
                deploy(cloud, settings, package, f"dogs-{number}")
                break
            except Killed:
                killed.add(done[-1])
    assert {"CreateModel", "CreateEndpointConfig", "CreateEndpoint"} <= killed
    for ledger in ledgers():
        cleanup(ledger.name, lambda region: cloud)
    assert left(rehearsal) == []
