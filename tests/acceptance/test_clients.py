"""Clients of a deployed endpoint: boto3 itself, and who has to trust its own certificate."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.models.test_package import make_package
from tests.serving.conftest import eventually, picture
from tests.serving.packages import handler

from finepoint.cli.deploy import command as deploy_command
from finepoint.errors import ConfigurationError, EndpointError
from finepoint.serving import registry
from finepoint.serving.capture import CaptureSettings
from finepoint.serving.client import AnswerError, Endpoint
from finepoint.serving.deployment import Access, deploy, endpoints, find_endpoint, undeploy
from finepoint.serving.health import main as health
from finepoint.serving.open_loop import offer

pytestmark = pytest.mark.slow
RED = picture((200, 10, 10), "JPEG", size=(300, 200))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("package")
    make_package(folder / "model")
    yield deploy(folder / "model", name="clients", capture=CaptureSettings(folder / "captured", images=True))
    undeploy("clients")


def runtime(endpoint: Endpoint) -> Any:
    boto3 = pytest.importorskip("boto3")
    given = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "eu-west-1"}
    return boto3.client("sagemaker-runtime", endpoint_url=endpoint.url, **given)


def test_boto3s_runtime_client_is_answered_unchanged(deployed: Endpoint) -> None:
    answer = runtime(deployed).invoke_endpoint(EndpointName="clients", ContentType="image/jpeg", Body=RED)
    assert json.loads(answer["Body"].read())["label"] == deployed.predict(RED).label
    assert (answer["ContentType"], answer["InvokedProductionVariant"]) == ("application/json", "AllTraffic")
    array = runtime(deployed).invoke_endpoint(
        EndpointName="clients", ContentType="image/jpeg", Accept="application/x-npy", Body=RED
    )
    assert np.load(io.BytesIO(array["Body"].read()), allow_pickle=False).shape == (1, 3)


def test_boto3s_runtime_client_raises_what_it_raises_in_aws(deployed: Endpoint) -> None:
    client = runtime(deployed)
    with pytest.raises(client.exceptions.ModelError) as refused:
        client.invoke_endpoint(EndpointName="clients", ContentType="image/jpeg", Body=b"no image")
    assert refused.value.response["OriginalStatusCode"] == 400
    assert "image" in refused.value.response["OriginalMessage"]
    with pytest.raises(client.exceptions.ClientError) as unknown:
        client.invoke_endpoint(EndpointName="nobody", ContentType="image/jpeg", Body=RED)
    assert unknown.value.response["Error"]["Code"] == "ValidationError"


def test_no_process_of_the_fast_path_loads_torch_whatever_it_is_asked(deployed: Endpoint) -> None:
    import httpx

    image = {"content": RED, "headers": {"Content-Type": "image/jpeg"}}
    with httpx.Client(base_url=deployed.url, trust_env=False, timeout=60) as client:
        for path in ("/invocations", "/invocations?explain=true", "/invocations?embedding=true&top=1"):
            assert client.post(path, **image).status_code == 200, path  # type: ignore[arg-type]
        for accept in ("application/jsonlines", "text/csv", "application/x-npy"):
            asked = {"content": RED, "headers": {"Content-Type": "image/jpeg", "Accept": accept}}
            assert client.post("/invocations", **asked).status_code == 200, accept  # type: ignore[arg-type]
        stream = io.BytesIO()
        np.save(stream, np.zeros((20, 20, 3), np.uint8))
        arrays = {"content": stream.getvalue(), "headers": {"Content-Type": "application/x-npy"}}
        assert client.post("/invocations", **arrays).status_code == 200  # type: ignore[arg-type]
        files = [("a", ("a.jpg", RED, "image/jpeg")), ("b", ("b.jpg", b"no image", "image/jpeg"))]
        assert client.post("/invocations/batch", files=files).status_code == 200
        for path in ("/ping", "/metadata", "/metrics", "/docs", "/openapi.json", "/", "/page.js"):
            assert client.get(path).status_code == 200, path
        assert eventually(lambda: "finepoint_capture" in client.get("/metrics").text)
    record = registry.find("clients")
    assert record is not None
    folder = Path(record.settings["capture-folder"])
    assert eventually(lambda: any(folder.rglob("*.jsonl")))
    for process in (psutil.Process(record.pid), *psutil.Process(record.pid).children(recursive=True)):
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        assert "torch" not in loaded, process.cmdline()


def certificate(folder: Path, *more: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    key, made = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += more or ("-addext", "subjectAltName=IP:127.0.0.1")
    try:
        subprocess.run([*command, "-keyout", str(key), "-out", str(made)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    return made, key


def test_a_self_signed_endpoint_is_trusted_by_its_certificate_and_by_nothing_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, key = certificate(tmp_path)
    other, _ = certificate(tmp_path / "other")
    access = Access(tls_certificate=mine, tls_key=key, allow_code=True)
    found = deploy(handler(tmp_path / "a", "secret"), name="own-ca", access=access)
    try:
        port = found.url.rsplit(":", 1)[1]
        with pytest.raises(AnswerError, match="secret"):  # it answered
            find_endpoint("own-ca").predict(RED)
        for ca in ("", str(other)):
            stranger = Endpoint(found.url, ca=ca)
            with pytest.raises(EndpointError, match="certificate verify failed"):
                stranger.get("metadata")
            assert not stranger.healthy()
            assert health(["--port", port, "--certificate", str(other)]) == 1
        assert Endpoint(found.url, ca=str(mine)).healthy()
        assert health(["--port", port, "--certificate", str(mine)]) == 0
        monkeypatch.setenv("FINEPOINT_CA", str(mine))
        assert Endpoint(found.url).get("metadata")["handler"] == "custom"
        (state,) = [item for item in endpoints() if item.record.name == "own-ca"]
        assert state.state == "healthy"
        assert offer(f"{found.url}/invocations", RED, 20, 0.3, trust=Endpoint(found.url).trust()).failed == 0
        refused = offer(f"{found.url}/invocations", RED, 20, 0.3, trust=ssl.create_default_context())
        assert refused.failed == refused.requests > 0
        command = [str(Path(sys.executable).with_name("finepoint")), "query", found.url, str(tmp_path / "a.jpg")]
        (tmp_path / "a.jpg").write_bytes(RED)
        assert "secret" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        undeploy("own-ca")


def test_an_endpoint_of_this_machine_is_known_by_its_own_certificate_whatever_host_that_names(tmp_path: Path) -> None:
    ca, ca_key = certificate(tmp_path / "ca")
    signed = ("-CA", str(ca), "-CAkey", str(ca_key), "-addext", "subjectAltName=DNS:localhost")
    mine, key = certificate(tmp_path / "mine", *signed)
    other, other_key = certificate(tmp_path / "other", *signed)
    chain = tmp_path / "chain.pem"
    chain.write_text(mine.read_text() + ca.read_text())
    package, image = handler(tmp_path / "a", "secret"), tmp_path / "a.jpg"
    image.write_bytes(RED)
    try:
        found = deploy(package, name="named", access=Access(tls_certificate=chain, tls_key=key, allow_code=True))
        for endpoint in (found, find_endpoint("named")):
            assert endpoint.healthy()
            assert endpoint.get("metadata")["handler"] == "custom"
        command = str(Path(sys.executable).with_name("finepoint"))
        asked = subprocess.run([command, "query", "named", str(image)], capture_output=True, text=True, check=True)
        assert "secret" in asked.stdout
        assert offer(f"{found.url}/invocations", RED, 20, 0.3, trust=found.trust()).failed == 0
        with pytest.raises(EndpointError, match="certificate verify failed"):
            Endpoint(found.url, ca=str(chain)).get("metadata")  # by its address its name must be right
        # Another certificate of who signed the endpoint's is not the endpoint's.
        access = Access(tls_certificate=other, tls_key=other_key, allow_code=True)
        impostor = deploy(package, name="impostor", access=access)
        assert impostor.healthy()
        with pytest.raises(EndpointError, match="certificate verify failed"):
            replace(found, url=impostor.url).get("metadata")
    finally:
        for name in {item.record.name for item in endpoints()} & {"named", "impostor"}:
            undeploy(name)


def test_the_curl_line_that_deploy_prints_shows_the_token_and_knows_the_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, key = certificate(tmp_path / "it's mine")
    token, image = tmp_path / "token", tmp_path / "a.jpg"
    token.write_text("0123456789abcdef0123\n")
    image.write_bytes(RED)
    given: dict[str, Any] = {"tls_certificate": mine, "tls_key": key, "token_file": token}
    package = str(handler(tmp_path / "a", "secret"))
    try:
        deploy_command(package, name="curled", allow_code=True, **given)
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  curl "))
        assert '-H "Authorization: Bearer $FINEPOINT_TOKEN"' in line
        assert shlex.split(line)[:3] == ["curl", "--cacert", str(mine)]
        if shutil.which("curl"):
            environment = {**os.environ, "FINEPOINT_TOKEN": "0123456789abcdef0123"}
            asked = ["sh", "-c", line.replace("@IMAGE.jpg", f"@{image}")]
            assert subprocess.run(asked, capture_output=True, text=True, env=environment).stdout == "secret"
        undeploy("curled")
        deploy_command(package, name="curled", allow_code=True)
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  curl "))
        assert line.startswith("  curl --data-binary @IMAGE.jpg")
    finally:
        undeploy("curled")


def test_a_ca_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"ca\.pem holds no certificate"):
        Endpoint("https://127.0.0.1:1", ca=str(tmp_path / "ca.pem")).get("ping")
