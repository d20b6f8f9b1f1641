"""Keeping a sample of what an endpoint is asked and answers, as SageMaker's data capture does.

A line of JSON for each request, in files `ENDPOINT/AllTraffic/YYYY/MM/DD/HH/MM-SS-mmm-ID.jsonl`, as AWS lays them out
in S3. Only answers are kept unless images are asked for too. A thread of its own writes; what it cannot keep up with is
dropped and counted, so that no request waits for a disk.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import random
import sys
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finepoint.errors import ConfigurationError
from finepoint.serving.messages import JSON, Request, Response
from finepoint.serving.metrics import Counter

_FILE_BYTES = 8 * 2**20
_WAITING = 64
_WAITING_BYTES = 64 * 2**20
_TEXTS = {JSON: "JSON", "application/jsonlines": "JSON", "text/csv": "CSV"}


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """What is kept.

    Args:
        folder: where.
        share: of the requests, above 0 to 1.
        images: keep what was asked too, not only what was answered.
        max_bytes: that the endpoint's files may take in all; the oldest go first.
    """

    folder: Path
    share: float = 1.0
    images: bool = False
    max_bytes: int = 2**30

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigurationError(
                f"the share to capture is {100 * self.share:g} %; it must be above 0 and at most 100"
            )

    def options(self) -> list[str]:
        """Return them as flags of the server."""
        given = ["--capture-folder", str(self.folder.resolve()), "--capture-share", repr(self.share)]
        return [*given, "--capture-bytes", str(self.max_bytes), *(["--capture-images"] if self.images else [])]


class Capture:
    """Writes a sample of requests and answers.

    Args:
        settings: what is kept, and where.
        endpoint: its name.

    Attributes:
        metrics: how much was kept and dropped.
    """

    def __init__(self, settings: CaptureSettings, endpoint: str) -> None:
        self._settings = settings
        self._folder = settings.folder / endpoint / "AllTraffic"
        self._random = random.Random()  # noqa: S311 - a sample needs no secret
        self._kept = Counter("finepoint_captured", "Requests kept by data capture.")
        self._dropped = Counter("finepoint_capture_dropped", "Requests that data capture could not keep up with.")
        self.metrics = [self._kept, self._dropped]
        self._queue: queue.Queue[_Sample | None] = queue.Queue(_WAITING)
        self._offered_bytes = self._written_bytes = 0  # each changed by one thread alone
        self._file: Path | None = None
        self._thread = threading.Thread(target=self._write_all, name="capture", daemon=True)
        self._thread.start()

    def offer(self, request: Request, response: Response) -> None:
        """Keep a request and its answer if it is of the sample; returns at once."""
        if self._random.random() >= self._settings.share:
            return
        sample = _Sample(
            request.content_type,
            request.body if self._settings.images else None,
            request.headers.get("x-amzn-sagemaker-inference-id", ""),
            response.content_type,
            response.body,
        )
        if self._offered_bytes - self._written_bytes + sample.size > _WAITING_BYTES:
            self._dropped.add()
            return
        try:
            self._queue.put_nowait(sample)
            self._offered_bytes += sample.size
        except queue.Full:
            self._dropped.add()

    def close(self) -> None:
        """Write what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        while (sample := self._queue.get()) is not None:
            line = json.dumps(_event(sample), ensure_ascii=False).encode() + b"\n"
            at, size = sample.at, sample.size
            del sample  # while the disk is slow its line is there, and its bodies are not
            try:
                self._append(line, at)
                self._kept.add()
            except OSError as error:
                self._dropped.add()
                sys.stderr.write(f"data capture: {error}\n")
            self._written_bytes += size

    def _append(self, line: bytes, at: datetime) -> None:
        if self._file is None or not self._file.is_file() or self._file.stat().st_size + len(line) > _FILE_BYTES:
            name = f"{at:%Y/%m/%d/%H/%M-%S}-{at.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
            self._file = self._folder / name
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(len(line) + _FILE_BYTES)
        # Whole in one write, so that a killed server leaves no half line; for the owner's eyes only.
        handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def _make_room(self, needed: int) -> None:
        files = sorted(self._folder.rglob("*.jsonl"))  # by time, as they are named
        sizes = [path.stat().st_size for path in files]
        excess = sum(sizes) + needed - self._settings.max_bytes
        for path, size in zip(files, sizes, strict=True):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


@dataclass(frozen=True, slots=True)
class _Sample:
    """What is kept of a request; its body only where images are asked for."""

    asked_type: str
    asked: bytes | None
    inference_id: str
    answered_type: str
    answered: bytes
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def size(self) -> int:
        return len(self.asked or b"") + len(self.answered)


def _event(sample: _Sample) -> dict[str, Any]:
    """Return a captured request as SageMaker writes it."""
    captured = {"endpointOutput": _side("OUTPUT", sample.answered_type, sample.answered)}
    if sample.asked is not None:
        captured = {"endpointInput": _side("INPUT", sample.asked_type, sample.asked), **captured}
    return {
        "captureData": captured,
        "eventMetadata": {
            "eventId": str(uuid.uuid4()),
            **({"inferenceId": sample.inference_id} if sample.inference_id else {}),
            "inferenceTime": sample.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        },
        "eventVersion": "0",
    }


def _side(mode: str, content_type: str, body: bytes) -> dict[str, str]:
    encoding = _TEXTS.get(content_type.split(";")[0].strip().lower(), "BASE64")
    data = base64.b64encode(body).decode() if encoding == "BASE64" else body.decode(errors="replace")
    return {"observedContentType": content_type, "mode": mode, "data": data, "encoding": encoding}
