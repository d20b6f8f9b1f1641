from __future__ import annotations

from dataclasses import replace

import boto3
import pytest
from tests.engines.sagemaker.test_endpoints import Echo

from finepoint.engines.rehearsal import container, hosting
from finepoint.engines.rehearsal.faults import Fault
from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.diagnosis import diagnose
from finepoint.engines.sagemaker.ledger import ledgers
from finepoint.engines.sagemaker.live import try_out
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.errors import ConfigurationError


def severities(settings: SageMakerSettings, cloud: Cloud) -> dict[str, str]:
    return {finding.name: finding.severity for finding in diagnose(settings, cloud)}


def test_all_is_well_where_all_is_there(settings: SageMakerSettings, cloud: Cloud) -> None:
    found = severities(settings, cloud)
    assert found == dict.fromkeys(("Credentials", "Role", "Bucket", "Image", "Quotas", "Rates"), "info")


def test_each_thing_that_is_missing_is_named_with_its_remedy(settings: SageMakerSettings, cloud: Cloud) -> None:
    missing = replace(
        settings,
        role=f"{settings.role}-nix",
        bucket="nobodys-bucket",
        image="123456789012.dkr.ecr.us-east-1.amazonaws.com/nix:1",
        instance_type="ml.x9.huge",
    )
    found = {finding.name: finding for finding in diagnose(missing, cloud)}
    assert {name: finding.severity for name, finding in found.items()} == {
        "Credentials": "info",
        "Role": "error",
        "Bucket": "error",
        "Image": "error",
        "Quotas": "error",
        "Rates": "warning",
    }
    assert found["Bucket"].remedy == "aws s3 mb s3://nobodys-bucket --region us-east-1"
    assert all(finding.remedy for finding in found.values() if finding.severity != "info")


def test_credentials_that_have_expired_are_told_and_nothing_more_is_asked(
    settings: SageMakerSettings, cloud: Cloud, rehearsal: Rehearsal
) -> None:
    rehearsal.faults.add(Fault("*", "expired", times=9))
    found = diagnose(settings, cloud)
    assert [(finding.name, finding.severity) for finding in found] == [("Credentials", "error")]
    assert "log in again" in found[0].message


def test_a_role_that_sagemaker_may_not_take_is_told(settings: SageMakerSettings, cloud: Cloud) -> None:
    trust = '{"Version": "2012-10-17", "Statement": []}'
    boto3.client("iam").create_role(RoleName="other", AssumeRolePolicyDocument=trust)
    assert severities(replace(settings, role=settings.role.replace("finepoint", "other")), cloud)["Role"] == "error"


def test_without_credentials_the_remedy_is_told(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(ConfigurationError, match="aws sso login"):
        Cloud("us-east-1").call("sts", "GetCallerIdentity")


def test_a_quota_that_does_not_do_is_named(settings: SageMakerSettings, cloud: Cloud, rehearsal: Rehearsal) -> None:
    rehearsal.platform.quotas["ml.g5.xlarge for spot training job usage"] = 0
    wanted = replace(settings, instance_type="ml.g5.xlarge", spot=True)
    try:
        found = {finding.name: finding for finding in diagnose(wanted, cloud)}["Quotas"]
    finally:
        rehearsal.platform.quotas.clear()
    assert found.severity == "error"
    assert "'ml.g5.xlarge for spot training job usage'" in found.remedy


# In the official toolkit's place, which would run the same lines.
LIVE = """
import os, pathlib
base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
words = (base / "input/data/words/words.txt").read_text()
print("finepoint-live", words, "live=0.5;", flush=True)
(base / "checkpoints" / "state.txt").write_text(words)
(base / "model" / "words.txt").write_text(words)
"""


@pytest.mark.parametrize(
    ("script", "unwell"),
    [(LIVE, []), (LIVE.replace("live=0.5", "").replace("checkpoints", "output"), ["Metrics", "Checkpoints"])],
)
def test_what_only_aws_can_show_is_tried_and_nothing_is_left(
    settings: SageMakerSettings,
    cloud: Cloud,
    rehearsal: Rehearsal,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    unwell: list[str],
) -> None:
    monkeypatch.setattr(container, "_TRAIN", script)
    monkeypatch.setattr(hosting, "Hosted", Echo)
    found = try_out(settings, cloud)
    assert [finding.name for finding in found if finding.severity == "error"] == unwell
    assert [finding.name for finding in found][-2:] == ["Endpoint", "Cleaned up"]
    assert rehearsal.platform.models == rehearsal.platform.endpoints == rehearsal.platform.endpoint_configs == {}
    assert all(one.gone for ledger in ledgers() for one in ledger.resources())


def test_a_job_that_aws_refuses_is_told(settings: SageMakerSettings, cloud: Cloud, rehearsal: Rehearsal) -> None:
    rehearsal.faults.add(Fault("CreateTrainingJob", "capacity"))
    found = try_out(settings, cloud)
    assert [(finding.name, finding.severity) for finding in found] == [("Job", "error"), ("Cleaned up", "info")]
    assert "CapacityError" in found[0].message
