"""Who asked for what and how it went, a JSON object a line: no bodies, no queries, no tokens."""

from __future__ import annotations

import contextlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from finepoint.serving.messages import Request, Response
from finepoint.serving.protocol import Application

# Two files of this size are kept.
_FILE_BYTES = 10 * 2**20


class LoggedApplication:
    """An application whose answers are noted in a file.

    Args:
        application: what answers.
        path: of the file; at 10 MiB it becomes `NAME.1`, in the place of the one before.
    """

    def __init__(self, application: Application, path: Path) -> None:
        self._application = application
        self._path = path
        self._open()

    def admit(self, request: Request) -> Response | None:
        """Return the refusal of a request that need not be read further, or None."""
        refused = self._application.admit(request)
        if refused is not None:
            self._note(request, refused)
        return refused

    async def answer(self, request: Request) -> Response:
        """Return the answer to a whole request."""
        response = await self._application.answer(request)
        self._note(request, response)
        return response

    def _note(self, request: Request, response: Response) -> None:
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
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
        # A full disk costs the log its line, and no client an answer.
        with contextlib.suppress(OSError):
            self._size += os.write(self._file, json.dumps(line).encode() + b"\n")
            if self._size > _FILE_BYTES:
                os.close(self._file)
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._open()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
