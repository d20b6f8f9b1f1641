"""Deploying: what an update may change, and what is left when a process is killed at the wrong moment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tests.serving.conftest import eventually
from tests.serving.packages import handler

from finepoint.errors import ConfigurationError, EndpointError, NotFoundError
from finepoint.runs.workflow import model_path
from finepoint.serving import registry
from finepoint.serving.capture import CaptureSettings
from finepoint.serving.deployment import Access, deploy, endpoints, undeploy

pytestmark = pytest.mark.slow
ALLOWED = Access(allow_code=True)
HANGS = "import threading\ndef model_fn(folder): threading.Event().wait()\ndef transform_fn(*_): ...\n"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    for item in endpoints():
        undeploy(item.record.name)


def hanging(folder: Path) -> Path:
    handler(folder, "never")
    (folder / "code" / "inference.py").write_text(HANGS)
    return folder


def asked(url: str) -> str:
    return httpx.post(f"{url}/invocations", content=b"x", headers={"Content-Type": "text/csv"}, trust_env=False).text


def start_deploying(package: Path, name: str, start_seconds: float = 60) -> subprocess.Popen[bytes]:
    """Deploy from a process of its own, which a test may kill."""
    code = (
        "import signal, sys; from pathlib import Path; from finepoint.serving.deployment import Access, deploy\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background, deaf to it\n"
        "deploy(Path(sys.argv[1]), name=sys.argv[2], start_seconds=float(sys.argv[3]), access=Access(allow_code=True))"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(package), name, str(start_seconds)])


def supervisor_of(name: str) -> psutil.Process | None:
    """Return the endpoint's supervisor once it has the entry, with a worker that loads or answers."""
    record = registry.find(name)
    process = record.process() if record is not None else None
    if process is None or "finepoint.serving.supervisor" not in process.cmdline():
        return None
    return process if process.children() else None


def test_code_is_allowed_for_the_package_it_was_allowed_for_and_no_later_one(tmp_path: Path) -> None:
    endpoint = deploy(handler(tmp_path / "a", "trusted"), name="code", access=ALLOWED)
    with pytest.raises(EndpointError, match="--allow-code"):
        deploy(handler(tmp_path / "b", "strange"), name="code")
    assert asked(endpoint.url) == "trusted"
    deploy(tmp_path / "b", name="code", access=ALLOWED)
    assert asked(endpoint.url) == "strange"
    record = registry.find("code")
    assert record is not None
    assert record.model == str(tmp_path / "b")


def test_an_update_that_asks_for_another_address_access_or_capture_is_refused_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    endpoint = deploy(handler(tmp_path / "a", "old"), name="kept", access=ALLOWED)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123")
    new = handler(tmp_path / "b", "new")
    with pytest.raises(ConfigurationError) as refused:
        deploy(
            new,
            name="kept",
            host="127.0.0.2",
            port=1,
            access=Access(token_file=token, allow_code=True),
            capture=CaptureSettings(tmp_path / "captured", 0.1),
        )
    words = str(refused.value)
    for flag in ("--host 127.0.0.2", "--port 1", f"--token-file {token}", "--capture 0.1"):
        assert f"{flag}: endpoint 'kept' runs with" in words
    assert "`finepoint undeploy kept` first" in words
    assert asked(endpoint.url) == "old"
    # What is the same as it runs is no change.
    deploy(new, name="kept", host="127.0.0.1", port=int(endpoint.url.rsplit(":", 1)[1]), access=ALLOWED)
    assert asked(endpoint.url) == "new"


def test_a_worker_that_dies_while_an_update_loads_is_back_at_once_and_the_update_says_why(tmp_path: Path) -> None:
    endpoint = deploy(handler(tmp_path / "a", "old"), name="dying", access=ALLOWED)
    with start_deploying(hanging(tmp_path / "b"), "dying") as deployer:
        supervisor = supervisor_of("dying")
        assert supervisor is not None
        (worker,) = supervisor.children()
        assert eventually(lambda: len(supervisor.children()) == 2)  # another one loads beside it
        worker.kill()
        assert deployer.wait(20) == 1
    assert asked(endpoint.url) == "old"


def test_a_signal_without_an_order_changes_nothing(tmp_path: Path) -> None:
    endpoint = deploy(handler(tmp_path / "a", "old"), name="called", access=ALLOWED)
    supervisor = supervisor_of("called")
    assert supervisor is not None
    supervisor.send_signal(signal.SIGHUP)
    with pytest.raises(EndpointError, match="--allow-code"):
        deploy(handler(tmp_path / "b", "new"), name="called")
    supervisor.send_signal(signal.SIGHUP)  # the order that is there was tried
    log = registry.log_path("called")
    assert eventually(lambda: log.read_text().count("SIGHUP without an order that is new") == 2)
    assert asked(endpoint.url) == "old"
    # What is quoted of the log is of the update that failed, not of an earlier one.
    with pytest.raises(EndpointError) as late:
        deploy(hanging(tmp_path / "c"), name="called", start_seconds=1, access=ALLOWED)
    assert "--allow-code" not in str(late.value)


def test_a_model_that_does_not_load_in_time_is_given_up_with_the_flag_that_gives_it_longer(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="not loaded within 3 s; --start-seconds gives it longer"):
        deploy(hanging(tmp_path / "a"), name="late", start_seconds=3, access=ALLOWED)
    assert endpoints() == []


def test_sigterm_while_a_model_loads_ends_every_process_at_once_and_with_zero(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finepoint.serving.supervisor", "--model", str(hanging(tmp_path / "a"))]
    with subprocess.Popen([*command, "--name", "x", "--port", "0", "--allow-code"]) as process:
        family = psutil.Process(process.pid)
        # supervisor, worker, the handler's keeper, the handler
        assert eventually(lambda: len(family.children(recursive=True)) == 3, 30)
        others = family.children(recursive=True)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert psutil.wait_procs(others, timeout=5)[1] == []
        assert time.monotonic() - start < 10


def test_sigterm_to_a_server_that_still_loads_ends_it_with_zero(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finepoint.serving", "--model", str(hanging(tmp_path / "a")), "--name", "x"]
    with subprocess.Popen([*command, "--port", "0", "--allow-code"]) as process:
        family = psutil.Process(process.pid)
        assert eventually(lambda: len(family.children(recursive=True)) == 2, 30)
        others = family.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert psutil.wait_procs(others, timeout=5)[1] == []


def test_an_endpoint_whose_deployer_was_killed_is_known_answers_and_can_be_removed(tmp_path: Path) -> None:
    package = handler(tmp_path / "a", "alive")
    with start_deploying(package, "orphan") as deployer:
        assert eventually(lambda: supervisor_of("orphan") is not None, 30)
        deployer.kill()
    assert eventually(lambda: [item.state for item in endpoints()] == ["healthy"], 30)
    record = registry.find("orphan")
    assert record is not None
    assert asked(record.url) == "alive"
    deploy(handler(tmp_path / "b", "updated"), name="orphan", access=ALLOWED)
    assert asked(record.url) == "updated"
    undeploy("orphan")
    assert registry.find("orphan") is None


def test_an_endpoint_that_does_not_start_leaves_nothing_even_where_its_deployer_was_killed(tmp_path: Path) -> None:
    with start_deploying(hanging(tmp_path / "a"), "failing", start_seconds=3) as deployer:
        assert eventually(lambda: supervisor_of("failing") is not None, 30)
        deployer.kill()
    assert eventually(lambda: registry.find("failing") is None, 30)


def test_an_update_whose_deployer_was_killed_is_written_down(tmp_path: Path) -> None:
    endpoint = deploy(handler(tmp_path / "a", "old"), name="halfway", access=ALLOWED)
    with start_deploying(handler(tmp_path / "b", "new"), "halfway") as deployer:
        assert eventually(lambda: registry.wanted_path("halfway").is_file(), 30)
        supervisor = supervisor_of("halfway")
        assert supervisor is not None
        assert eventually(lambda: len(supervisor.children()) == 2, 30)
        deployer.kill()
    assert eventually(lambda: asked(endpoint.url) == "new", 30)
    record = registry.find("halfway")
    assert record is not None
    assert record.model == str(tmp_path / "b")


def test_an_endpoint_that_is_long_in_deploying_holds_up_no_other(tmp_path: Path) -> None:
    with start_deploying(hanging(tmp_path / "a"), "slow") as deployer:
        assert eventually(lambda: supervisor_of("slow") is not None, 30)
        assert asked(deploy(handler(tmp_path / "b", "quick"), name="quick", access=ALLOWED).url) == "quick"
        undeploy("quick")
        assert deployer.poll() is None
        deployer.send_signal(signal.SIGINT)
        deployer.wait(20)
    assert registry.find("slow") is None


def test_of_two_deployments_of_one_name_at_once_one_makes_the_endpoint_and_the_other_updates_it(
    tmp_path: Path,
) -> None:
    packages = {word: handler(tmp_path / word, word) for word in ("one", "other")}
    failures: list[Exception] = []

    def put(package: Path) -> None:
        try:
            deploy(package, name="both", access=ALLOWED)
        except Exception as error:  # noqa: BLE001 - it is looked at below
            failures.append(error)

    threads = [threading.Thread(target=put, args=(package,)) for package in packages.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    (item,) = endpoints()
    assert packages[asked(item.record.url)] == Path(item.record.model)


def test_a_supervisor_hears_sigterm_while_an_old_worker_still_has_clients(tmp_path: Path) -> None:
    slow = handler(tmp_path / "a", "old")
    (slow / "code" / "inference.py").write_text(
        "import time\ndef model_fn(folder): ...\n"
        "def transform_fn(a, b, c, d):\n    time.sleep(4)\n    return 'old', 'text/plain'\n"
    )
    endpoint = deploy(slow, name="draining", access=ALLOWED)
    port = int(endpoint.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\nx")
        assert eventually(lambda: b"in_work 1" in httpx.get(f"{endpoint.url}/metrics", trust_env=False).content)
        start = time.monotonic()
        deploy(handler(tmp_path / "b", "new"), name="draining", access=ALLOWED)
        supervisor = supervisor_of("draining")
        assert supervisor is not None
        old, new = sorted(supervisor.children(), key=psutil.Process.create_time)
        new.kill()  # it is replaced although the old one has not ended
        assert asked(endpoint.url) == "new"
        assert old.is_running() or time.monotonic() - start > 4
        os.kill(supervisor.pid, signal.SIGTERM)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")  # what was begun is finished
        assert psutil.wait_procs([supervisor, old], timeout=20)[1] == []


def test_a_folder_with_a_handler_of_its_own_is_a_model(tmp_path: Path) -> None:
    assert model_path(handler(tmp_path / "a", "mine")) == tmp_path / "a"
    with pytest.raises(NotFoundError, match="no run"):
        model_path(tmp_path)
