"""A rehearsal for the tests of the SageMaker engine: moto and the stand-in in this process, an account of nobody's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.training import SageMakerEngine

# Kept between runs of the tests: making it takes a download.
ENVIRONMENTS = Path(tempfile.gettempdir()) / "finepoint-oracles"
BUCKET = "photos"


@pytest.fixture(scope="session")
def running() -> Iterator[Rehearsal]:
    with pytest.MonkeyPatch.context() as patch, Rehearsal(ENVIRONMENTS) as rehearsal:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in rehearsal.variables().items():
            patch.setenv(name, value)
        # Botocore waits up to 20 s between tries; a test has no time for that.
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0)
        boto3.setup_default_session()
        yield rehearsal


@pytest.fixture(scope="session")
def account(running: Rehearsal) -> Cloud:
    return Cloud("us-east-1", attempts=4)


@pytest.fixture
def rehearsal(running: Rehearsal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rehearsal]:
    monkeypatch.setenv("FINEPOINT_STATE", str(tmp_path / "state"))
    running.faults.clear()
    running.faults.calls.clear()
    running.platform.objects.reset()
    running.prepare(BUCKET)
    yield running
    running.platform.close()
    running.platform.forget()


@pytest.fixture
def cloud(rehearsal: Rehearsal, account: Cloud) -> Cloud:
    return account


@pytest.fixture
def settings() -> SageMakerSettings:
    role = "arn:aws:iam::123456789012:role/finepoint"
    return SageMakerSettings(role=role, bucket=BUCKET, poll_seconds=0.1, max_run_seconds=600)


@pytest.fixture
def engine(settings: SageMakerSettings, cloud: Cloud) -> SageMakerEngine:
    return SageMakerEngine(settings, cloud)
