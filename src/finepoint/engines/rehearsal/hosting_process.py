"""A rehearsed hosting container: the official inference toolkit's handler behind `/ping` and `/invocations`.

Run as a file in the clean environment: `python hosting_process.py MODEL_DIR PORT`. It stands where AWS's image has
TorchServe, and drives the same `HandlerService`. It imports nothing of finepoint's.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Request:
    """One request as the toolkit asks about it."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def get_request_properties(self) -> dict[str, str]:
        """Return its headers."""
        return self._headers


class Context:
    """What the model server tells the handler, and what the handler tells it."""

    model_name = "model"

    def __init__(self, model_dir: str, headers: dict[str, str]) -> None:
        self.system_properties = {"model_dir": model_dir, "gpu_id": None}
        self.request_processor = [Request(headers)]
        self.status, self.content_type = 200, "application/json"

    def set_response_content_type(self, index: int, value: str) -> None:
        """Take the answer's content type."""
        self.content_type = value

    def set_response_status(self, code: int, phrase: str, index: int = 0) -> None:
        """Take the answer's status."""
        self.status = int(code)


def main() -> None:
    """Install what the model asks for, load it, and answer."""
    model_dir, port = sys.argv[1], int(sys.argv[2])
    code = Path(model_dir) / "code"
    if (code / "requirements.txt").is_file():
        command = [sys.executable, "-m", "pip", "install", "-q", "-r", "requirements.txt"]
        subprocess.run(command, cwd=code, check=True)
    sys.path.insert(0, str(code))
    os.environ.setdefault("SAGEMAKER_PROGRAM", "inference.py")
    from sagemaker_pytorch_serving_container.handler_service import HandlerService

    service: Any = HandlerService()
    service.initialize(Context(model_dir, {}))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == "/ping" else 404, b"", "text/plain")

        def do_POST(self) -> None:
            body = bytearray(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            context = Context(model_dir, {name.lower(): value for name, value in self.headers.items()})
            found = service.handle([{"body": body}], context)[0]
            content = found.encode() if isinstance(found, str) else bytes(found)
            self._answer(context.status, content, context.content_type)

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing for each request."""

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
