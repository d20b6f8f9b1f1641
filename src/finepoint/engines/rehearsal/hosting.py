"""Hosted models of the stand-in: endpoints and transform jobs, each over a process that serves what was uploaded.

The image decides which: our own container's `serve`, or the official toolkit's handler as in AWS's image.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from finepoint.data.extracting import extract
from finepoint.engines.rehearsal.environment import overlay, passed_on, serving_environment, toolkit_environment
from finepoint.engines.sagemaker.objects import split_s3
from finepoint.models.package import PACKAGE_LIMITS

if TYPE_CHECKING:
    from finepoint.engines.rehearsal.control import Platform

_SCRIPT = Path(__file__).with_name("hosting_process.py")
_START_SECONDS = 300.0
# Between SIGTERM and SIGKILL, as AWS has it.
_STOP_SECONDS = 30.0
# Entry point and command of docker/Dockerfile, without its Python.
SERVE = ("-m", "finepoint.serving.sagemaker", "serve")
_OWN_IMAGE = "finepoint-serving"


class HostingError(Exception):
    """A model's container did not become healthy."""


class Hosted:
    """A model's container, in a folder of its own."""

    def __init__(self, platform: Platform, model: Mapping[str, Any]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rehearsal-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "log.txt"
        self._platform, self._container = platform, model["PrimaryContainer"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])

    def start(self) -> None:
        """Start it, and wait until it is healthy.

        Raises:
            HostingError: it does not become so; the message has its last words.
        """
        model = self.folder / "ml" / "model"
        archive = self.folder / "model.tar.gz"
        archive.write_bytes(self._platform.objects.read(self._container["ModelDataUrl"]))
        extract(archive, model, PACKAGE_LIMITS)
        home = self.folder / "home"
        home.mkdir()
        own = {**passed_on(), "HOME": str(home), **self._container.get("Environment", {})}
        command, variables = self._serve() if is_ours(self._container["Image"]) else self._toolkit(model)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**own, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self._port}/ping", trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                try:
                    self._process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
                break
        words = self._log.read_text(errors="replace").strip()[-600:]
        raise HostingError(f"The primary container for production variant AllTraffic did not pass the ping: {words}")

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        """Return status, body and content type of its answer."""
        headers = {"Content-Type": content_type, "Accept": accept}
        url = f"http://127.0.0.1:{self._port}/invocations"
        answer = httpx.post(url, content=body, headers=headers, timeout=60, trust_env=False)
        return answer.status_code, answer.content, answer.headers.get("content-type", "")

    def _serve(self) -> tuple[list[str], dict[str, str]]:
        """Return command and variables of our own image: its entry point, where only this machine reaches it."""
        python = serving_environment(self.folder / "environment")
        places = {"SAGEMAKER_BASE_DIR": "ml", "FINEPOINT_CACHE": "cache", "FINEPOINT_STATE": "state"}
        variables = {name: str(self.folder / place) for name, place in places.items()}
        variables |= {"SAGEMAKER_BIND_TO_PORT": str(self._port), "FINEPOINT_BIND_TO_HOST": "127.0.0.1"}
        return [str(python), *SERVE], variables

    def _toolkit(self, model: Path) -> tuple[list[str], dict[str, str]]:
        """Return command and variables of AWS's image: the official toolkit's handler."""
        python = overlay(self.folder / "environment", toolkit_environment(self._platform.cache))
        return [str(python), "-P", str(_SCRIPT), str(model), str(self._port)], {}

    def stop(self) -> None:
        """End it, and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def is_ours(image: str) -> bool:
    """Return whether an image is of our own container file, which is known by the name of its repository.

    >>> is_ours("123456789012.dkr.ecr.eu-west-1.amazonaws.com/finepoint-serving:1"), is_ours("pytorch-inference:2.6.0")
    (True, False)
    """
    return image.rpartition("/")[2].partition("@")[0].partition(":")[0] == _OWN_IMAGE


class Endpoint:
    """An endpoint; a thread brings it into service."""

    def __init__(self, platform: Platform, name: str, config: str) -> None:
        self.platform, self.name, self.config = platform, name, config
        self._config = config  # of what answers
        self.arn = platform.arn("endpoint", name)
        self.status, self.failure = "Creating", ""
        self.created = self.modified = datetime.now(UTC)
        self._hosted: Hosted | None = None
        self._thread: threading.Thread | None = None

    def bring_up(self, status: str = "Creating") -> None:
        """Host what its configuration names, beside what answers until that is healthy."""
        self.status = status
        self._thread = threading.Thread(target=self._bring_up, daemon=True)
        self._thread.start()

    def variants(self) -> list[dict[str, Any]]:
        """Return what is said of what answers; one with machines has as many as it began with."""
        variant = self.platform.endpoint_configs[self._config]["ProductionVariants"][0]
        count = variant.get("InitialInstanceCount")
        counts = {} if count is None else {"CurrentInstanceCount": count, "DesiredInstanceCount": count}
        return [{"VariantName": variant["VariantName"], **counts}]

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        """Return what its model answers."""
        assert self._hosted is not None
        answer = self._hosted.invoke(body, content_type, accept)
        capture = self.platform.endpoint_configs[self._config].get("DataCaptureConfig", {})
        if capture.get("EnableCapture") and random.uniform(0, 100) < capture["InitialSamplingPercentage"]:  # noqa: S311
            self._capture(capture["DestinationS3Uri"], body, content_type, answer)
        return answer

    def _capture(self, place: str, body: bytes, content_type: str, answer: tuple[int, bytes, str]) -> None:
        now = datetime.now(UTC)
        sides = {"endpointInput": (body, content_type), "endpointOutput": (answer[1], answer[2])}
        data = {
            side: {"observedContentType": kind, "data": base64.b64encode(content).decode(), "encoding": "BASE64"}
            for side, (content, kind) in sides.items()
        }
        line = {"captureData": data, "eventMetadata": {"inferenceTime": now.isoformat()}, "eventVersion": "0"}
        uri = f"{place.rstrip('/')}/{self.name}/AllTraffic/{now:%Y/%m/%d/%H}/{uuid.uuid4()}.jsonl"
        self.platform.objects.write(uri, (json.dumps(line) + "\n").encode())

    def invoke_async(self, location: str, content_type: str, accept: str) -> tuple[str, str]:
        """Answer for an object, and return where the answer is put, or the failure; "" where that has no place."""
        output = self.platform.endpoint_configs[self.config]["AsyncInferenceConfig"]["OutputConfig"]
        number, failures = uuid.uuid4(), output.get("S3FailurePath", "")
        target = f"{output['S3OutputPath'].rstrip('/')}/{number}.out"
        failure = f"{failures.rstrip('/')}/{number}-error.out" if failures else ""

        def answer() -> None:
            status, body, kind = self.invoke(self.platform.objects.read(location), content_type, accept)
            if status == 200:
                self.platform.objects.write(target, body, kind)
            elif failure:
                words = f'Received server error ({status}) from primary with message "{body.decode(errors="replace")}"'
                self.platform.objects.write(failure, words.encode(), "text/plain")

        threading.Thread(target=answer, daemon=True).start()
        return target, failure

    def take_down(self) -> None:
        """Stop it."""
        self.status = "Deleting"
        if self._thread is not None:
            self._thread.join(_START_SECONDS)
        if self._hosted is not None:
            self._hosted.stop()

    def _bring_up(self) -> None:
        model = self.platform.endpoint_configs[self.config]["ProductionVariants"][0]["ModelName"]
        hosted, before = Hosted(self.platform, self.platform.models[model]), self._hosted
        try:
            hosted.start()
        except Exception as error:  # noqa: BLE001 - the platform's own fault fails the endpoint, as AWS's would
            hosted.stop()
            self.failure = str(error)[:1024]
            self.config = self._config
            self.status = "InService" if before else "Failed"
            return
        self._hosted, self.modified, self._config = hosted, datetime.now(UTC), self.config
        self.status = "InService"
        if before is not None:
            before.stop()


class TransformJob:
    """A batch transform job: one answer an object, `KEY.out`."""

    def __init__(self, platform: Platform, request: Mapping[str, Any]) -> None:
        self.platform, self.request = platform, request
        self.status, self.failure = "InProgress", ""
        self.created = datetime.now(UTC)
        self.ended: datetime | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop."""
        self.status = "Stopping"
        self._stop.set()

    def _run(self) -> None:
        hosted = Hosted(self.platform, self.platform.models[self.request["ModelName"]])
        source = self.request["TransformInput"]
        uri = source["DataSource"]["S3DataSource"]["S3Uri"]
        target = self.request["TransformOutput"]["S3OutputPath"].rstrip("/")
        bucket, prefix = split_s3(uri)
        try:
            hosted.start()
            for key in self.platform.objects.keys(uri):
                if self._stop.is_set():
                    self._end("Stopped")
                    return
                body = self.platform.objects.read(f"s3://{bucket}/{key}")
                status, answer, kind = hosted.invoke(body, source.get("ContentType", ""), "application/json")
                if status != 200:
                    self._end("Failed", f"ClientError: See job logs for more information: {key}: {answer[:200]!r}")
                    return
                name = key[len(prefix) :].lstrip("/") or Path(key).name
                self.platform.objects.write(f"{target}/{name}.out", answer, kind)
            self._end("Completed")
        except Exception as error:  # noqa: BLE001 - the platform's own fault fails the job, as AWS's would
            self._end("Failed", str(error)[:1000])
        finally:
            hosted.stop()

    def _end(self, status: str, failure: str = "") -> None:
        self.failure, self.ended = failure, datetime.now(UTC)
        self.status = status
