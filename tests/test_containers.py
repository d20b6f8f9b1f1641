"""The container files, read as hadolint reads them: no Docker engine runs where these tests do."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from tests.models.test_package import make_package
from tests.serving.conftest import eventually, picture

from finepoint.engines.rehearsal.environment import SERVING, TOOLKITS, serving_environment
from finepoint.engines.rehearsal.hosting import SERVE

FOLDER = Path(__file__).parents[1] / "docker"
FILES = sorted(FOLDER.glob("*Dockerfile"))


def instructions(text: str) -> list[tuple[str, str]]:
    """Return instruction and arguments of each line, with continued lines joined and comments left out."""
    plain = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", plain)
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def complaints(text: str) -> Iterator[str]:
    """Yield hadolint's codes of what is wrong."""
    found = instructions(text)
    stages: set[str] = set()
    for name, given in found:
        if name == "FROM":
            image, *alias = given.split(" AS ")
            if image not in stages and not re.search(r":(?!latest)[\w.-]+$|@sha256:", image):
                yield "DL3006"  # a tag, and not the latest
            stages |= set(alias)
        elif name == "WORKDIR" and not given.startswith("/"):
            yield "DL3000"
        elif name == "ADD":
            yield "DL3020"
        elif name in ("CMD", "ENTRYPOINT") and not given.startswith("["):
            yield "DL3025"
        elif name == "COPY" and (source := re.match(r"--from=(\S+)", given)) and source[1] not in stages:
            yield "DL3022"
        elif name == "RUN":
            yield from _of_shell(given)
    if not any(name == "USER" for name, _ in found):
        yield "DL3002"


def _of_shell(given: str) -> Iterator[str]:
    for command in re.split(r"&&|;|\|\|", given):
        words = command.split()
        if words[:1] == ["cd"]:
            yield "DL3003"
        if words[:1] == ["sudo"]:
            yield "DL3004"
        if "apt-get install" in command:
            packages = [word for word in words[2:] if not word.startswith("-")]
            if any("=" not in package for package in packages):
                yield "DL3008"
            if "--no-install-recommends" not in words:
                yield "DL3015"
            if "rm -rf /var/lib/apt/lists" not in given:
                yield "DL3009"
        if "pip install" in command:
            if "--no-cache-dir" not in words:
                yield "DL3042"
            taken = words[words.index("install") + 1 :]
            named = [
                word for before, word in zip(["", *taken], taken, strict=False) if before not in ("-r", "--index-url")
            ]
            if any("==" not in word for word in named if not word.startswith("-") and word != "."):
                yield "DL3013"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_container_file_is_clean(path: Path) -> None:
    assert list(complaints(path.read_text())) == []


def test_the_check_sees_what_is_wrong() -> None:
    bad = (
        "FROM python\nWORKDIR build\nADD a b\nRUN cd x && sudo ls && apt-get install gcc && pip install torch\n"
        "COPY --from=nowhere a b\nCMD train\n"
    )
    codes = "DL3006 DL3000 DL3020 DL3003 DL3004 DL3008 DL3015 DL3009 DL3042 DL3013 DL3022 DL3025 DL3002"
    assert list(complaints(bad)) == codes.split()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_a_container_file_copies_is_there(path: Path) -> None:
    for name, given in instructions(path.read_text()):
        sources = given.split()[:-1] if name == "COPY" and not given.startswith("--from") else []
        assert [source for source in sources if not (FOLDER.parent / source).exists()] == []


def test_the_training_image_has_the_toolkit_that_the_rehearsal_runs_jobs_by() -> None:
    # Its `train` is what the tests of the SageMaker engine start, in a clean environment.
    text = (FOLDER / "training.Dockerfile").read_text()
    assert TOOLKITS[0] in text
    assert ("CMD", '["train"]') in instructions(text)


def test_the_rehearsal_serves_by_what_the_serving_image_installs_and_runs() -> None:
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    names = [Requirement(line).name for line in lines if line and not line.startswith("#")]
    assert sorted(names) == sorted(SERVING)
    last = dict(instructions((FOLDER / "Dockerfile").read_text()))
    assert [*json.loads(last["ENTRYPOINT"]), *json.loads(last["CMD"])] == ["python", *SERVE]


@pytest.mark.slow
def test_the_serving_images_entry_point_answers_with_what_the_image_installs(tmp_path: Path) -> None:
    make_package(tmp_path / "ml" / "model")
    python = serving_environment(tmp_path / "environment")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"SAGEMAKER_BASE_DIR": tmp_path / "ml", "SAGEMAKER_BIND_TO_PORT": port, "HOME": tmp_path}
    own |= {"FINEPOINT_CACHE": tmp_path / "cache", "FINEPOINT_STATE": tmp_path / "state", "PATH": os.environ["PATH"]}
    environment = {name: str(value) for name, value in own.items()}
    with (
        subprocess.Popen([python, *SERVE], env=environment, cwd=tmp_path) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):

        def healthy() -> bool:
            try:
                return client.get("/ping").status_code == 200
            except httpx.HTTPError:
                assert process.poll() is None
                return False

        try:
            assert eventually(healthy, 30)
            image = picture((200, 10, 10), "JPEG", size=(300, 200))
            answer = client.post("/invocations", content=image, headers={"Content-Type": "image/jpeg"})
            assert answer.status_code == 200, answer.text
            assert sum(answer.json()["probabilities"].values()) == pytest.approx(1)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
