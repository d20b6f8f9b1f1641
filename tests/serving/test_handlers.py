from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from tests.serving.conftest import eventually, serving
from tests.serving.packages import handler

from finepoint.errors import ConfigurationError, EndpointError, PackageError
from finepoint.models.package import has_own_handler, open_package, pack
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


def test_a_request_has_its_504_at_its_own_deadline_however_long_it_waited_for_its_turn(tmp_path: Path) -> None:
    with serving(folder=package(tmp_path / "p", HANDLER), service=Service(request_seconds=1.5)) as served:
        statuses: list[int] = []

        def first() -> None:
            with httpx.Client(base_url=served.url, trust_env=False, timeout=30) as client:
                statuses.append(client.post("/invocations", content=b"loop").status_code)

        asking = threading.Thread(target=first)
        asking.start()
        assert eventually(lambda: "finepoint_requests_in_work 1" in served.client.get("/metrics").text)
        start = time.monotonic()
        # It comes to its turn when the first one is ended, and then loops itself: its time is counted from here.
        assert served.ask(b"loop", "text/csv").status_code in (503, 504)
        assert time.monotonic() - start < 2.5
        asking.join()
        assert statuses == [504]
        assert eventually(lambda: served.ask(b"x", "text/csv").status_code == 200)


SPAWNS = """
import subprocess, sys

def model_fn(folder):
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    return str(child.pid)

def transform_fn(model, data, content_type, accept):
    if data == "die":
        import os
        os._exit(3)
    return model, "text/plain"
"""


def test_what_a_handler_has_started_ends_with_it(tmp_path: Path) -> None:
    with serving(folder=package(tmp_path / "p", SPAWNS)) as served:
        first = psutil.Process(int(served.ask(b"who", "text/csv").text))
        assert served.ask(b"die", "text/csv").status_code == 500
        assert psutil.wait_procs([first], timeout=5)[1] == []
        found: list[str] = []
        assert eventually(lambda: found.append(served.ask(b"who", "text/csv").text) or found[-1].isdecimal())
        second = psutil.Process(int(found[-1]))
    assert psutil.wait_procs([second], timeout=5)[1] == []


def test_what_a_handler_has_started_ends_also_where_the_server_is_killed(tmp_path: Path) -> None:
    folder = package(tmp_path / "p", SPAWNS)
    command = [sys.executable, "-m", "finepoint.serving", "--model", str(folder), "--name", "x", "--port", "0"]
    with subprocess.Popen([*command, "--allow-code"]) as server:
        family = psutil.Process(server.pid)
        # the handler's keeper, the handler, and what it started
        assert eventually(lambda: len(family.children(recursive=True)) == 3, 30)
        others = family.children(recursive=True)
        server.kill()
        assert psutil.wait_procs(others, timeout=5)[1] == []


def test_sagemaker_program_names_the_script_that_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = handler(tmp_path / "p", "mine")
    (folder / "code" / "inference.py").rename(folder / "code" / "serve_me.py")
    with pytest.raises(PackageError):
        open_package(folder, foreign=True)
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "serve_me.py")
    archive = tmp_path / "model.tar.gz"
    pack(folder, archive)
    opened = open_package(archive, foreign=True)
    assert has_own_handler(open_package(folder, foreign=True))
    with serving(folder=opened) as served:
        assert served.ask(b"x", "text/csv").text == "mine"


def test_a_module_that_only_requirements_txt_names_is_missed_with_the_command_that_installs_it(tmp_path: Path) -> None:
    folder = package(tmp_path / "p", "import nothing_of_this_name")
    (folder / "code" / "requirements.txt").write_text("nothing-of-this-name")
    with pytest.raises(EndpointError, match=r"pip install -r .*code/requirements\.txt"):
        asyncio.run(HandlerModel(folder, Service(), "v1").open())
