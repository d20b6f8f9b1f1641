"""The contract of multi-model endpoints, over real HTTP, with models whose handler answers with a word."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.serving.packages import handler

from finepoint.profiler.cgroups import ControlGroup
from finepoint.serving import memory, multimodel
from finepoint.serving.admission import Service
from finepoint.serving.loading import open_model
from finepoint.serving.memory import free_bytes
from finepoint.serving.multimodel import MultiModelApplication
from finepoint.serving.server import Server, listening_socket


@contextmanager
def serving(folder: Path, max_models: int = 0) -> Iterator[httpx.Client]:
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    port = 0

    async def run() -> None:
        nonlocal port
        application = MultiModelApplication(
            lambda path: open_model(path, Service(), body_bytes=10_000, allow_code=True), folder, max_models=max_models
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


def test_free_memory_is_what_the_nearer_limit_leaves(tmp_path: Path) -> None:
    machine = memory.psutil.virtual_memory().total
    group = ControlGroup(memory=(tmp_path,))
    assert 0 < free_bytes(ControlGroup()) <= machine
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.max").write_text("5000000\n")
    assert free_bytes(group) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(group) > 5_000_000
