from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from tests.serving.conftest import eventually, serving

from finepoint.errors import ConfigurationError, EndpointError
from finepoint.serving.admission import Service
from finepoint.serving.handlers import HandlerModel
from finepoint.serving.loading import open_model

HANDLER = """
import os, time

def model_fn(model_dir):
    return sorted(os.listdir(model_dir))

def input_fn(data, content_type):
    return type(data).__name__, content_type, data if isinstance(data, str) else bytes(data).decode()

def predict_fn(value, model):
    if value[2] == "die":
        os._exit(3)
    if value[2] == "loop":
        while True:
            pass
    if value[2] == "raise":
        raise KeyError("nothing here")
    return [*value, *model]

def output_fn(prediction, accept, context):
    context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", context.get_request_header(0, "x-mine") or "")
    return ",".join(prediction), accept
"""


def package(folder: Path, code: str) -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text(code)
    return folder


def test_a_handlers_functions_are_called_with_what_the_toolkit_gives_them(tmp_path: Path) -> None:
    with serving(folder=package(tmp_path / "p", HANDLER)) as served:
        text = served.ask(b"x", "text/csv", Accept="text/csv", **{"X-Mine": "hello"})
        assert (text.status_code, text.text) == (200, "str,text/csv,x,code")
        assert text.headers["content-type"] == "text/csv"
        assert text.headers["x-amzn-sagemaker-custom-attributes"] == "hello"
        assert served.ask(b"x", "image/jpeg").text == "bytearray,image/jpeg,x,code"
        assert served.ask(b"x", "image/jpeg").headers["content-type"] == "application/json"
        assert served.client.get("/ping").status_code == 200
        assert served.client.get("/metadata").json()["handler"] == "custom"


def test_an_exception_is_a_500_with_its_traceback_and_a_model_error_to_the_runtime_client(tmp_path: Path) -> None:
    with serving(folder=package(tmp_path / "p", HANDLER)) as served:
        answer = served.ask(b"raise", "text/csv")
        assert answer.status_code == 500
        assert "nothing here" in answer.text
        assert "Traceback" in answer.text
        runtime = served.ask(b"raise", "text/csv", "/endpoints/reddest/invocations")
        assert (runtime.status_code, json.loads(runtime.text)["OriginalStatusCode"]) == (424, 500)


@pytest.mark.parametrize(("body", "words"), [(b"die", "died"), (b"loop", "took longer")])
def test_a_crash_and_an_endless_loop_cost_one_answer_and_the_process_comes_back(
    tmp_path: Path, body: bytes, words: str
) -> None:
    with serving(folder=package(tmp_path / "p", HANDLER), service=Service(request_seconds=1.0)) as served:
        answer = served.ask(body, "text/csv")
        assert answer.status_code in (500, 504)
        assert eventually(lambda: served.ask(b"x", "text/csv").status_code == 200)
        assert "finepoint_handler_deaths_total 1" in served.client.get("/metrics").text


def test_a_process_that_is_killed_while_nobody_asks_it_fails_no_request(tmp_path: Path) -> None:
    with serving(folder=package(tmp_path / "p", HANDLER)) as served:
        os.kill(served.model._process.pid, signal.SIGKILL)
        assert eventually(lambda: "finepoint_handler_deaths_total 1" in served.client.get("/metrics").text)
        answers = [503]
        assert eventually(lambda: answers.append(served.ask(b"x", "text/csv").status_code) or answers[-1] == 200)
        assert set(answers) == {503, 200}


def test_a_process_that_does_not_come_back_at_once_is_started_again(tmp_path: Path) -> None:
    folder = package(tmp_path / "p", HANDLER)
    code = folder / "code" / "inference.py"
    with serving(folder=folder) as served:
        code.write_text("raise MemoryError('for now')")
        assert served.ask(b"die", "text/csv").status_code == 500
        assert eventually(lambda: served.client.get("/ping").status_code == 503)
        code.write_text(HANDLER)
        assert eventually(lambda: served.ask(b"x", "text/csv").status_code == 200, 30)


def test_a_handler_that_cannot_be_loaded_is_refused_with_its_traceback(tmp_path: Path) -> None:
    async def load() -> None:
        await HandlerModel(package(tmp_path / "p", "import nothing_of_this_name"), Service(), "v1").open()

    with pytest.raises(EndpointError, match="nothing_of_this_name"):
        asyncio.run(load())


def test_a_packages_code_is_not_run_without_permission(tmp_path: Path) -> None:
    package(tmp_path / "p", "raise SystemExit('I was run')")
    with pytest.raises(ConfigurationError, match="--allow-code"):
        asyncio.run(open_model(tmp_path / "p", Service(), body_bytes=1000))


def test_transform_fn_excludes_the_others(tmp_path: Path) -> None:
    both = "def transform_fn(a, b, c, d): pass\ndef input_fn(a, b): pass\ndef model_fn(d): pass\n"

    async def load() -> None:
        await HandlerModel(package(tmp_path / "p", both), Service(), "v1").open()

    with pytest.raises(EndpointError, match="Cannot use transform_fn"):
        asyncio.run(load())
