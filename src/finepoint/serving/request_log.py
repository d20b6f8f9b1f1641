"""Who asked for what and how it went, a JSON object a line: no bodies, no queries, no tokens.

A thread of its own writes, a tenth of a second's lines at once, so that no request waits for a disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finepoint.serving.messages import Request, Response
from finepoint.serving.protocol import Application

# Two files of this size are kept.
_FILE_BYTES = 10 * 2**20
_GATHER_SECONDS = 0.1
# Lines that may wait for the disk: some seconds' at the highest rate. Of more only the number is noted.
_WAITING = 20_000
_BATCH_BYTES = 64 * 2**10


class LoggedApplication:
    """An application whose answers are noted in a file.

    Args:
        application: what answers.
        path: of the file; at 10 MiB it becomes `NAME.1`, in the place of the one before.
    """

    def __init__(self, application: Application, path: Path) -> None:
        self._application = application
        self._path = path
        self._lines: deque[dict[str, Any]] = deque()
        self._dropped = 0
        self._some, self._closing = threading.Event(), threading.Event()
        self._open()
        self._thread = threading.Thread(target=self._write_all, name="request log", daemon=True)
        self._thread.start()

    def admit(self, request: Request) -> Response | None:
        """Return the refusal of a request that need not be read further, or None."""
        refused = self._application.admit(request)
        if refused is not None:
            self._add(request, refused)
        return refused

    async def answer(self, request: Request) -> Response:
        """Return the answer to a whole request."""
        response = await self._application.answer(request)
        self._add(request, response)
        return response

    def note(self, request: Request, response: Response) -> None:
        """Note a refusal that was sent without asking."""
        self._application.note(request, response)
        self._add(request, response)

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        self._some.set()
        self._thread.join()
        os.close(self._file)

    def _add(self, request: Request, response: Response) -> None:
        if len(self._lines) >= _WAITING:
            self._dropped += 1
            return
        line = {
            "at": time.time(),
            "request_id": response.headers.get("x-amzn-requestid", ""),
            "method": request.method,
            "path": request.path[:200],
            "content_type": request.content_type[:100],
            "bytes": len(request.body),
            "status": response.status,
            "answer_bytes": len(response.body),
            "seconds": round(time.monotonic() - request.arrived, 6),
            "model_version": response.headers.get("x-finepoint-model-version", ""),
        }
        self._lines.append(line)
        if not self._some.is_set():
            self._some.set()

    def _write_all(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._closing.wait(_GATHER_SECONDS)
            self._some.clear()
            self._write_waiting()  # a line that comes from here on sets it again
        self._write_waiting()

    def _write_waiting(self) -> None:
        batch = bytearray()
        while self._lines:
            batch += _text(self._lines.popleft())
            if self._size + len(batch) > _FILE_BYTES or len(batch) > _BATCH_BYTES:
                self._write(batch)
                batch.clear()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            batch += _text({"at": time.time(), "not_noted": dropped})
        if batch:
            self._write(batch)

    def _write(self, lines: bytes | bytearray) -> None:
        # A full disk costs the log its lines, and no client an answer.
        with contextlib.suppress(OSError):
            self._size += os.write(self._file, lines)
            if self._size > _FILE_BYTES:
                with contextlib.suppress(FileNotFoundError):
                    self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                full = self._file
                self._open()
                os.close(full)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size


def _text(line: dict[str, Any]) -> bytes:
    at = datetime.fromtimestamp(line["at"], UTC).isoformat(timespec="milliseconds")
    return json.dumps({**line, "at": at}).encode() + b"\n"
