"""Endpoints on our own serving image: the stand-in runs the container's `serve`, with what the image installs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.test_package import make_package
from tests.serving.conftest import picture

from finepoint.engines.rehearsal.server import Rehearsal
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.endpoints import deploy, predict, undeploy
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.errors import EndpointError, RequestError
from finepoint.models.package import pack

pytestmark = pytest.mark.slow
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/finepoint-serving:1"
JPEG = "image/jpeg"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    make_package(tmp_path / "model")
    pack(tmp_path / "model", tmp_path / "model.tar.gz")
    return tmp_path / "model.tar.gz"


def test_both_images_serve_a_package_and_answer_alike(
    cloud: Cloud, settings: SageMakerSettings, rehearsal: Rehearsal, package: Path
) -> None:
    image = picture((200, 10, 10), "JPEG", size=(300, 200))
    answers = {}
    for name, uri in (("ours", IMAGE), ("theirs", "")):
        deploy(cloud, replace(settings, inference_image=uri), package, name)
        body, kind = predict(cloud, name, image, JPEG)
        assert kind.startswith("application/json")
        answer = json.loads(body)
        answers[name] = answer.get("predictions", [answer])[0]["probabilities"]
        with pytest.raises(RequestError):
            predict(cloud, name, b"no image", JPEG)
        undeploy(cloud, name)
    assert answers["ours"] == pytest.approx(answers["theirs"], abs=1e-3)


def test_our_image_lacks_what_it_does_not_install(
    cloud: Cloud, settings: SageMakerSettings, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    (tmp_path / "model" / "code").mkdir(parents=True)
    (tmp_path / "model" / "code" / "inference.py").write_text("import torch\n\ndef model_fn(folder):\n    return 1\n")
    pack(tmp_path / "model", tmp_path / "model.tar.gz")
    with pytest.raises(EndpointError, match="No module named 'torch'"):
        deploy(cloud, replace(settings, inference_image=IMAGE), tmp_path / "model.tar.gz", "ours")
    assert rehearsal.platform.models == rehearsal.platform.endpoint_configs == {}
