"""The contract of multi-model endpoints, over real HTTP, with models whose handler answers with a word."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.serving.packages import handler

from finepoint.profiler.cgroups import ControlGroup
from finepoint.serving import memory, multimodel
from finepoint.serving.__main__ import main
from finepoint.serving.admission import Service
from finepoint.serving.gate import Gate
from finepoint.serving.loading import open_model
from finepoint.serving.memory import free_bytes
from finepoint.serving.multimodel import MultiModelApplication
from finepoint.serving.server import Server, listening_socket
from finepoint.serving.tokens import Token


@contextmanager
def serving(folder: Path, max_models: int = 0, gate: Gate | None = None) -> Iterator[httpx.Client]:
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    port = 0

    async def run() -> None:
        nonlocal port
        application = MultiModelApplication(
            lambda path: open_model(path, Service(), body_bytes=10_000, allow_code=True),
            folder,
            "many",
            max_models=max_models,
            gate=gate,
        )
        server = Server(application)
        listener = listening_socket("127.0.0.1", 0)
        port = listener.getsockname()[1]
        server.listen(listener)
        ready.set()
        await stop.wait()
        await server.stop(grace_seconds=5)
        await application.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(10)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            yield client
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


def load(client: httpx.Client, name: str, url: Path | str) -> int:
    return client.post("/models", json={"model_name": name, "url": str(url)}).status_code


def test_models_are_loaded_invoked_listed_and_unloaded(tmp_path: Path) -> None:
    one, two = handler(tmp_path / "1" / "model", "one"), handler(tmp_path / "2" / "model", "two")
    (tmp_path / "empty").mkdir()
    with serving(tmp_path, max_models=2) as client:
        assert client.get("/ping").status_code == 200
        assert client.post("/models/a/invoke", content=b"x").status_code == 404
        assert [load(client, "a", one), load(client, "a", one)] == [200, 409]
        assert load(client, "broken", tmp_path / "empty") == 400
        assert [load(client, "b", two), load(client, "c", one)] == [200, 507]  # full: the platform evicts one
        headers = {"Content-Type": "text/csv"}
        answers = [client.post(f"/models/{name}/invoke", content=b"x", headers=headers).text for name in ("a", "b")]
        assert answers == ["one", "two"]
        listed = client.get("/models", params={"limit": 1}).json()
        assert listed["models"] == [{"modelName": "a", "modelUrl": str(one)}]
        rest = client.get("/models", params={"next_page_token": listed["nextPageToken"]}).json()
        assert rest == {"models": [{"modelName": "b", "modelUrl": str(two)}]}
        assert client.get("/models/a").json() == {"modelName": "a", "modelUrl": str(one)}
        assert [client.delete("/models/a").status_code, client.delete("/models/a").status_code] == [200, 404]
        assert [client.get("/models/a").status_code, load(client, "c", one)] == [404, 200]


def test_what_is_not_in_the_folder_or_has_no_room_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = handler(tmp_path / "models" / "1", "in"), handler(tmp_path / "other", "out")
    (tmp_path / "models" / "link").symlink_to(outside)
    with serving(tmp_path / "models") as client:
        for url in (outside, f"{inside}/../../other", tmp_path / "models" / "link"):
            assert load(client, "a", url) == 400
        for body in (b"", b"[]", b'{"model_name": "a"}', b"[" * 100_000):
            assert client.post("/models", content=body).status_code == 400
        assert client.put("/models").status_code == 405
        monkeypatch.setattr(multimodel, "free_bytes", lambda: 50 * 2**20)
        answer = client.post("/models", json={"model_name": "a", "url": str(inside)})
        assert (answer.status_code, "needs 96 MiB, 50 MiB are free" in answer.text) == (507, True)


def test_a_model_is_not_looked_for_where_nothing_can_lie(tmp_path: Path) -> None:
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    inside = handler(tmp_path / "1", "in")
    with serving(tmp_path) as client:
        for url in ("\0", f"{tmp_path}/a\0b", f"{tmp_path}/a%00b", tmp_path / ("m" * 256), tmp_path / "ring"):
            answer = client.post("/models", json={"model_name": "a", "url": str(url)})
            assert (answer.status_code, "cannot lie at" in answer.text) == (400, True), url
        for body in ({"model_name": "a", "url": "\ud800"}, {"model_name": "\ud800", "url": str(inside)}):
            assert client.post("/models", content=json.dumps(body)).status_code == 400, body
        assert load(client, "a/invoke", inside) == 400  # it could not be asked for
        assert load(client, "a", inside) == 200


def test_free_memory_is_what_the_nearer_limit_leaves(tmp_path: Path) -> None:
    machine = memory.psutil.virtual_memory().total
    group = ControlGroup(memory=(tmp_path,))
    assert 0 < free_bytes(ControlGroup()) <= machine
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.max").write_text("5000000\n")
    assert free_bytes(group) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(group) > 5_000_000


def test_a_token_is_demanded_at_every_path_but_ping(tmp_path: Path) -> None:
    one = handler(tmp_path / "1" / "model", "one")
    with serving(tmp_path, gate=Gate(Token("a-secret-of-some-length"))) as client:
        asked = [("GET", "/models"), ("POST", "/models"), ("GET", "/models/a"), ("DELETE", "/models/a")]
        asked += [("POST", "/models/a/invoke"), ("POST", "/endpoints/many/invocations"), ("GET", "/nothing")]
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a-secret-of-some-length"}):
            assert {client.request(*each, headers=shown).status_code for each in asked} == {401}
        assert client.get("/ping").status_code == 200
        client.headers["Authorization"] = "Bearer a-secret-of-some-length"
        assert load(client, "a", one) == 200
        assert client.post("/models/a/invoke", content=b"x", headers={"Content-Type": "text/csv"}).text == "one"
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert client.post("/models", json={}, headers=cross).status_code == 403


def test_the_servers_process_guards_its_models_by_the_token_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123\n")
    given = [sys.executable, "-m", "finepoint.serving", "--models", str(tmp_path), "--name", "many"]
    given += ["--token-file", str(token), "--port", "0"]
    ours, theirs = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fds = [listener.fileno(), theirs.fileno()]
        process = subprocess.Popen([*given, "--listen-fd", str(fds[0]), "--ready-fd", str(fds[1])], pass_fds=fds)
        try:
            ours.settimeout(60)
            assert ours.recv(1) == b"1"
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert httpx.get(f"{url}/models", trust_env=False).status_code == 401
            shown = {"Authorization": "Bearer 0123456789abcdef0123"}
            assert httpx.get(f"{url}/models", trust_env=False, headers=shown).json() == {"models": []}
        finally:
            process.kill()
            process.wait()
            ours.close()
            theirs.close()


def test_capture_does_not_go_with_many_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", str(tmp_path), "--name", "many", "--capture-folder", str(tmp_path)]) == 2
    assert "does not go with --models" in capsys.readouterr().err


def test_the_runtime_client_names_a_model_which_is_loaded_where_it_is_not(tmp_path: Path) -> None:
    handler(tmp_path / "a", "one")
    path, kind = "/endpoints/many/invocations", {"Content-Type": "text/csv"}
    with serving(tmp_path) as client:
        good = client.post(path, content=b"x", headers={**kind, "X-Amzn-SageMaker-Target-Model": "a"})
        assert (good.status_code, good.text) == (200, "one")
        assert good.headers["x-amzn-invoked-production-variant"] == "AllTraffic"
        assert client.get("/models/a").json() == {"modelName": "a", "modelUrl": str(tmp_path / "a")}
        for headers in (
            {},
            {"X-Amzn-SageMaker-Target-Model": "a", "X-Amzn-SageMaker-Target-Variant": "other"},
        ):
            refused = client.post(path, content=b"x", headers={**kind, **headers})
            assert (refused.status_code, refused.headers["x-amzn-errortype"]) == (400, "ValidationError")
        for name in ("..", "%2e%2e", "a/../a", "a/invoke", "m" * 300, "m" * 501, "a%00b"):
            refused = client.post(path, content=b"x", headers={**kind, "X-Amzn-SageMaker-Target-Model": name})
            assert (refused.status_code, refused.headers["x-amzn-errortype"]) == (400, "ValidationError"), name
        refused = client.post(path, content=b"x", headers={**kind, "X-Amzn-SageMaker-Target-Model": "nothing"})
        assert (refused.status_code, refused.headers["x-amzn-errortype"]) == (424, "ModelError")
