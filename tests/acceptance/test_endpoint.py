"""A deployed endpoint: it is updated under load, survives the death of each of its processes, and ends well."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tests.models.test_package import make_package
from tests.serving.conftest import eventually, picture
from tests.serving.packages import handler

from finepoint.errors import ConfigurationError, EndpointError
from finepoint.models.made_here import remember
from finepoint.models.package import pack
from finepoint.serving import registry
from finepoint.serving.canary import CanaryPlan
from finepoint.serving.client import Endpoint
from finepoint.serving.deployment import Access, deploy, endpoints, undeploy

pytestmark = pytest.mark.slow


class Load:
    """Clients that ask without pause, each on one connection as long as the server keeps it."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.answers: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(f"{url}/invocations", content=b"x", headers={"Content-Type": "text/csv"})
                    self.answers.append(answer.text if answer.status_code == 200 else f"status {answer.status_code}")
                except httpx.HTTPError as error:
                    self.answers.append(repr(error))


def worker_of(name: str) -> psutil.Process:
    record = registry.find(name)
    assert record is not None
    (worker,) = psutil.Process(record.pid).children()
    return worker


def test_an_update_under_load_fails_no_request_and_a_bad_one_is_rolled_back(tmp_path: Path) -> None:
    access = Access(allow_code=True)
    endpoint = deploy(handler(tmp_path / "a", "old"), name="rolling", access=access)
    try:
        with Load(endpoint.url) as load:
            assert eventually(lambda: len(load.answers) > 50)
            updated = deploy(handler(tmp_path / "b", "new"), name="rolling", access=access)
            seen = len(load.answers)
            assert eventually(lambda: len(load.answers) > seen + 50)
            broken = handler(tmp_path / "c", "broken")
            (broken / "code" / "inference.py").write_text("raise RuntimeError('I do not load')")
            with pytest.raises(EndpointError, match="not updated"):
                deploy(broken, name="rolling", access=access)
            seen = len(load.answers)
            assert eventually(lambda: len(load.answers) > seen + 50)
        assert set(load.answers) == {"old", "new"}
        assert load.answers[-1] == "new"
        assert updated.url == endpoint.url
        with pytest.raises(ConfigurationError, match="exists already"):
            deploy(tmp_path / "b", name="rolling")
    finally:
        undeploy("rolling")


def test_a_canary_gets_its_share_and_then_all_and_a_bad_one_is_noticed_by_nobody(tmp_path: Path) -> None:
    access = Access(allow_code=True)
    endpoint = deploy(handler(tmp_path / "a", "old"), name="canary", access=access)
    try:
        with Load(endpoint.url) as load:
            assert eventually(lambda: len(load.answers) > 50)
            bad = handler(tmp_path / "b", "bad")
            (bad / "code" / "inference.py").write_text(
                "def model_fn(folder): ...\ndef transform_fn(*_): raise RuntimeError('only with real requests')"
            )
            with pytest.raises(EndpointError, match=r"it failed: of \d+ requests [3-9] failed; the old model goes on"):
                deploy(bad, name="canary", access=access, canary=CanaryPlan(0.2))
            assert set(load.answers) == {"old"}
            said: list[str] = []
            seen = len(load.answers)
            plan = CanaryPlan(0.2, requests=50)
            deploy(handler(tmp_path / "c", "new"), name="canary", access=access, canary=plan, say=said.append)
            tried = load.answers[seen:]
            assert eventually(lambda: load.answers[-1] == "new")
        assert set(load.answers) == {"old", "new"}
        assert tried.count("new") >= 50
        assert len(said) == 1 and said[0].endswith("failed at 0: it takes over")
    finally:
        undeploy("canary")


def test_a_canary_needs_an_endpoint_to_stand_beside(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="beside a running endpoint"):
        deploy(handler(tmp_path / "a", "new"), name="canary", canary=CanaryPlan(0.1))


def test_a_package_of_this_machines_own_job_runs_its_code_unasked_and_says_so(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    digest = pack(handler(tmp_path / "a", "own"), archive)
    said: list[str] = []
    with pytest.raises(ConfigurationError, match="--allow-code"):
        deploy(archive, name="own", say=said.append)
    remember(digest, "job flowers-1")
    try:
        endpoint = deploy(archive, name="own", say=said.append)
        asked = {"content": b"secret bytes", "headers": {"Content-Type": "text/csv", "Authorization": "Bearer abc"}}
        assert httpx.post(f"{endpoint.url}/invocations?key=hidden", trust_env=False, **asked).text == "own"  # type: ignore[arg-type]
        assert said == [f"{archive} runs its code/inference.py with your rights: job flowers-1 made it on this machine"]
        (state,) = endpoints()
        assert (state.state, state.traffic["requests"] >= 1, state.traffic["p99_seconds"] > 0) == (
            "healthy",
            True,
            True,
        )
        log = registry.request_log_path("own")
        assert eventually(lambda: '"POST"' in log.read_text())  # it is written by a thread of its own
        text = log.read_text()
        logged = [json.loads(line) for line in text.splitlines()]
        assert [(row["path"], row["status"], row["bytes"]) for row in logged if row["method"] == "POST"] == [
            ("/invocations", 200, 12)
        ]
        assert not any(word in text for word in ("secret", "abc", "hidden"))
        # Changed by a byte it is somebody else's.
        strange = handler(tmp_path / "b", "strange")
        pack(strange, archive)
        with pytest.raises(EndpointError, match="not updated"):
            deploy(archive, name="own")
    finally:
        undeploy("own")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "model"
    make_package(folder)
    return folder


@pytest.fixture
def deployed(package: Path) -> Iterator[Endpoint]:
    endpoint = deploy(package, name="lasting")
    yield endpoint
    if registry.find("lasting") is not None:
        undeploy("lasting")


def test_each_process_that_is_killed_comes_back(deployed: Endpoint) -> None:
    image = picture((200, 10, 10), "JPEG", size=(300, 200))
    before = deployed.predict(image)
    maps = Path(f"/proc/{worker_of('lasting').pid}/maps").read_text()
    assert "libopenvino" in maps
    assert "libtorch" not in maps  # the fast path needs no torch
    (nursery,) = worker_of("lasting").children()
    assert eventually(lambda: len(nursery.children()) >= 1)
    for victim in (nursery.children()[0], nursery):
        victim.kill()
        assert deployed.predict(image) == before
    worker = worker_of("lasting")
    worker.kill()
    start = time.monotonic()
    assert deployed.predict(image) == before  # it waits in the socket's queue
    assert time.monotonic() - start < 15  # under 3 s on a machine with nothing else to do; see docs/endpoint.md
    assert worker_of("lasting").pid != worker.pid


def test_an_endpoint_holds_no_file_of_who_deployed_it(package: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as held:
        os.set_inheritable(held.fileno(), True)
        deploy(package, name="lasting")
        try:
            record = registry.find("lasting")
            assert record is not None
            family = [psutil.Process(record.pid), *psutil.Process(record.pid).children(recursive=True)]
            assert not [file for each in family for file in each.open_files() if file.path == str(lock)]
            assert os.get_inheritable(held.fileno())
        finally:
            undeploy("lasting")


def test_undeploy_ends_every_process_and_frees_the_port(deployed: Endpoint, package: Path) -> None:
    record = registry.find("lasting")
    assert record is not None
    family = [psutil.Process(record.pid), *psutil.Process(record.pid).children(recursive=True)]
    port = int(deployed.url.rsplit(":", 1)[1])
    with pytest.raises(ConfigurationError, match="cannot be bound"):
        deploy(package, name="another", port=port)
    undeploy("lasting")
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert [item.record.name for item in endpoints()] == []
    again = deploy(package, name="lasting", port=port)
    assert again.healthy()
    # Where supervisor and worker die at once nothing is left: the entry is stale, and its name and port are free.
    record = registry.find("lasting")
    assert record is not None
    family = [psutil.Process(record.pid), *psutil.Process(record.pid).children(recursive=True)]
    family[0].suspend()
    family[1].kill()
    family[0].kill()
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert endpoints()[0].state == "stale"
    assert deploy(package, name="lasting", port=port).healthy()


def test_a_supervisor_that_is_killed_comes_back_and_no_request_fails(tmp_path: Path) -> None:
    access = Access(allow_code=True)
    endpoint = deploy(handler(tmp_path / "a", "steady"), name="headless", access=access)
    before = registry.find("headless")
    assert before is not None
    worker = worker_of("headless")

    def back() -> bool:
        record = registry.find("headless")
        return record is not None and record.pid != before.pid and record.process() is not None

    try:
        with Load(endpoint.url) as load:
            assert eventually(lambda: len(load.answers) > 50)
            psutil.Process(before.pid).kill()
            assert eventually(back)
            assert eventually(lambda: not worker.is_running(), 30)
            seen = len(load.answers)
            assert eventually(lambda: len(load.answers) > seen + 50)
        assert set(load.answers) == {"steady"}
        (state,) = endpoints()
        assert (state.state, state.record.url, state.record.model_version) == (
            "healthy",
            endpoint.url,
            before.model_version,
        )
        assert deploy(handler(tmp_path / "b", "newer"), name="headless", access=access).url == endpoint.url
    finally:
        undeploy("headless")
    assert not endpoint.healthy()


def test_what_is_removed_while_its_supervisor_is_dead_stays_removed(tmp_path: Path) -> None:
    endpoint = deploy(handler(tmp_path / "a", "gone"), name="removed", access=Access(allow_code=True))
    record = registry.find("removed")
    assert record is not None
    family = psutil.Process(record.pid).children(recursive=True)
    with registry.locked():  # the successor waits for it
        psutil.Process(record.pid).kill()
        registry.remove("removed")
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert registry.find("removed") is None
    assert not endpoint.healthy()


def test_sigterm_to_the_server_ends_it_with_zero(package: Path, tmp_path: Path) -> None:
    import sys

    command = [sys.executable, "-m", "finepoint.serving", "--model", str(package), "--name", "x", "--port", "0"]
    ours, theirs = socket.socketpair()
    with ours, subprocess.Popen([*command, "--ready-fd", str(theirs.fileno())], pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        assert ours.recv(1) == b"1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_token_and_tls_guard_an_endpoint(tmp_path: Path) -> None:
    token, key, certificate = tmp_path / "token", tmp_path / "key.pem", tmp_path / "certificate.pem"
    token.write_text("0123456789abcdef0123\n")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", str(key), "-out", str(certificate)]
    made = subprocess.run([*command.split(), *files], capture_output=True)
    if made.returncode:
        pytest.skip("no openssl to make a certificate with")
    access = Access(token_file=token, tls_certificate=certificate, tls_key=key, allow_code=True)
    endpoint = deploy(handler(tmp_path / "a", "secret"), name="guarded", access=access)
    try:
        trust = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=endpoint.url, verify=trust, trust_env=False) as client:
            asked = {"content": b"x", "headers": {"Content-Type": "text/csv"}}
            assert client.post("/invocations", **asked).status_code == 401  # type: ignore[arg-type]
            client.headers["Authorization"] = "Bearer 0123456789abcdef0123"
            assert client.post("/invocations", **asked).text == "secret"  # type: ignore[arg-type]
    finally:
        undeploy("guarded")
