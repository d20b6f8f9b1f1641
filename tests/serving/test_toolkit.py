"""Our handler and the official toolkit's Transformer, side by side over the same packages and requests."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.conftest import picture

pytestmark = pytest.mark.slow

OF_2021 = """
import io, json, torch
from PIL import Image
from torchvision import models, transforms

def model_fn(model_dir):
    torch.manual_seed(0)
    model = models.resnet50(weights=None)
    model.fc = torch.nn.Sequential(torch.nn.Linear(2048, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
    with open(model_dir + "/model.pth", "rb") as f:
        model.load_state_dict(torch.load(f, map_location="cpu"))
    return model.eval()

def input_fn(request_body, content_type="image/jpeg"):
    if content_type == "image/jpeg":
        return Image.open(io.BytesIO(request_body))
    raise Exception("Requested unsupported ContentType in content_type: {}".format(content_type))

def predict_fn(input_object, model):
    way = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])
    with torch.no_grad():
        return model(way(input_object).unsqueeze(0))
"""
DEFAULTS = """
import torch

class Twice(torch.nn.Module):
    def forward(self, x):
        return x * 2

def model_fn(model_dir):
    return Twice()
"""
TRANSFORM = """
def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept):
    if content_type == "text/tuple":
        return "as told", "text/plain"
    return "%s %s %s" % (type(data).__name__, content_type, accept)
"""
# Reads cases from standard input, drives the toolkit's Transformer as its server does, and prints what it answers.
DRIVER = """
import base64, json, os, sys
folder = sys.argv[1]
sys.path.insert(0, folder + "/code")
from sagemaker_inference.transformer import Transformer
from sagemaker_pytorch_serving_container.default_pytorch_inference_handler import DefaultPytorchInferenceHandler

class Properties:
    def __init__(self, headers): self.headers = headers
    def get_request_properties(self): return self.headers

class Context:
    def __init__(self):
        self.system_properties = {"model_dir": folder}
    def begin(self, headers):
        self.request_processor, self.status, self.kind = [Properties(headers)], 200, None
    def set_response_status(self, code=200, phrase="", idx=0): self.status = code
    def set_response_content_type(self, index, value): self.kind = value

transformer, context, answers = Transformer(default_inference_handler=DefaultPytorchInferenceHandler()), Context(), []
for case in json.load(sys.stdin):
    context.begin(case["headers"])
    (answer,) = transformer.transform([{"body": bytearray(base64.b64decode(case["body"]))}], context)
    if isinstance(answer, str):
        answer = answer.encode()
    answers.append([context.status, context.kind, base64.b64encode(bytes(answer)).decode()])
print("ANSWERS " + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the Python of an environment with the toolkit; torch is taken from ours."""
    folder = Path(os.environ.get("FINEPOINT_ORACLE", tmp_path_factory.mktemp("oracle") / "environment"))
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    wanted = ["sagemaker-pytorch-inference==2.0.25", "sagemaker-inference==1.10.1", "retrying", "six"]
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", *wanted]
    done = subprocess.run(install, capture_output=True, text=True, timeout=240)
    if done.returncode:
        pytest.skip(f"the toolkit cannot be installed here: {done.stderr.strip()[-300:]}")
    own = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "ours.pth"
    own.write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


def package(folder: Path, code: str) -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text(code)
    return folder


def case(body: bytes, content_type: str | None = None, accept: str | None = None) -> dict[str, Any]:
    headers = {"content-type": content_type, "accept": accept}
    return {
        "headers": {name: value for name, value in headers.items() if value is not None},
        "body": base64.b64encode(body).decode(),
    }


def npy(value: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def both(python: str, folder: Path, cases: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Return what the toolkit and we answer, each as [status, content type, body]."""
    ours = (
        "import base64, json, sys\nfrom pathlib import Path\nfrom finepoint.serving.toolkit import Handler\n"
        "handler, answers = Handler(Path(sys.argv[1])), []\n"
        "for case in json.load(sys.stdin):\n"
        "    answer = handler.answer(base64.b64decode(case['body']), case['headers'])\n"
        "    body = base64.b64encode(answer.body).decode()\n"
        "    answers.append([answer.status, answer.headers.get('content-type'), body])\n"
        "print('ANSWERS ' + json.dumps(answers))\n"
    )
    found = []
    for command, code in ((python, DRIVER), (sys.executable, ours)):
        environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(folder)}
        done = subprocess.run(
            [command, "-c", code, str(folder)],
            input=json.dumps(cases),
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWERS "))
        found.append(json.loads(line.removeprefix("ANSWERS ")))
    return found[0], found[1]


def assert_same(theirs: list[Any], ours: list[Any]) -> None:
    assert [answer[0] for answer in ours] == [answer[0] for answer in theirs]
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one[0] == 200:
            assert one[1:] == other[1:], number
        else:
            # The traceback's lines differ; what the exception says must not, where it is the handler's own.
            own, said = (base64.b64decode(value[2]).decode().splitlines()[0] for value in (one, other))
            assert own.split()[:3] == said.split()[:3], number


def test_a_handler_of_2021_answers_the_same_bytes(oracle: str, tmp_path: Path) -> None:
    import torch
    from torchvision import models

    folder = package(tmp_path / "model", OF_2021)
    torch.manual_seed(1)
    model = models.resnet50(weights=None)
    model.fc = torch.nn.Sequential(torch.nn.Linear(2048, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
    torch.save(model.state_dict(), folder / "model.pth")
    photo = picture((200, 30, 60), "JPEG", size=(80, 60))
    cases = [
        case(photo, "image/jpeg"),
        case(photo, "image/jpeg", "*/*"),
        case(photo, "image/jpeg", "text/csv"),
        case(photo, "image/jpeg", "application/x-npy"),
        case(photo, "image/jpeg", "text/html"),
        case(photo, "image/png"),
        case(b"no image", "image/jpeg"),
    ]
    theirs, ours = both(oracle, folder, cases)
    assert_same(theirs, ours)
    assert ours[0][0] == 200
    assert np.array(json.loads(base64.b64decode(ours[0][2]))).shape == (1, 5)


def test_the_defaults_answer_the_same(oracle: str, tmp_path: Path) -> None:
    json_body = json.dumps([[1, 2], [3.5, 4]]).encode()
    array = npy(np.array([[1.5, 2.0]], np.float32))
    cases = [
        case(json_body, "application/json"),
        case(json_body, "application/json", "text/csv"),
        case(json_body, "application/json", "application/x-npy"),
        case(json_body, "application/json", "text/html, text/csv"),
        case(json_body, "application/json", "text/csv;q=0.5"),
        case(b"1,2\n3,4\n", "text/csv"),
        case(b"7,8", "text/csv", "text/csv"),
        case(array, "application/x-npy"),
        case(array, "application/x-npy", "application/x-npy"),
        case(b"{", "application/json"),
        case(b"x", "text/plain"),
        case(b"x"),
        case(b"\xff", "application/json"),
    ]
    theirs, ours = both(oracle, package(tmp_path / "model", DEFAULTS), cases)
    assert_same(theirs, ours)


def test_transform_fn_answers_the_same(oracle: str, tmp_path: Path) -> None:
    cases = [case(b"a", "text/csv"), case(b"a", "image/png", "x/y"), case(b"a", "text/tuple"), case(b"a", None, "*/*")]
    theirs, ours = both(oracle, package(tmp_path / "model", TRANSFORM), cases)
    assert_same(theirs, ours)


def test_pickled_objects_are_loaded_there_and_refused_here(oracle: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([1.0, 2.0], object), allow_pickle=True)
    theirs, ours = both(
        oracle,
        package(tmp_path / "model", DEFAULTS),
        [case(stream.getvalue(), "application/x-npy"), case(b"x", "application/x-npy")],
    )
    assert [answer[0] for answer in theirs] == [answer[0] for answer in ours] == [500, 500]
    assert "Object arrays cannot be loaded" in base64.b64decode(ours[0][2]).decode()
    assert "Object arrays cannot be loaded" not in base64.b64decode(theirs[0][2]).decode()
