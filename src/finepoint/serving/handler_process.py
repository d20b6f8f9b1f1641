"""The process in which a package's own handler runs: `python -m finepoint.serving.handler_process FOLDER SOCKET`.

Each message is the lengths of its two parts, a JSON head and a body. The first one that this process sends says that
the model is loaded, or why not.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import traceback
from collections.abc import Mapping, Sequence
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from finepoint.serving.lifetime import die_with_parent
from finepoint.serving.toolkit import Handler

LENGTHS = struct.Struct("!IQ")


def main(arguments: Sequence[str]) -> int:
    """Answer requests until the server closes the socket."""
    die_with_parent()
    stream = socket.socket(fileno=int(arguments[1])).makefile("rwb")
    try:
        handler = Handler(Path(arguments[0]))
    except Exception:  # noqa: BLE001 - whatever the handler's code raises is what the user must see
        _send(stream, {"failure": traceback.format_exc()}, b"")
        return 1
    _send(stream, {"failure": ""}, b"")
    while lengths := stream.read(LENGTHS.size):
        head, body = LENGTHS.unpack(lengths)
        headers = json.loads(stream.read(head))
        answer = handler.answer(stream.read(body), headers)
        _send(stream, {"status": answer.status, "headers": dict(answer.headers)}, answer.body)
    return 0


def message(head: Mapping[str, Any], body: bytes) -> bytes:
    """Return a message's bytes."""
    encoded = json.dumps(head).encode()
    return LENGTHS.pack(len(encoded), len(body)) + encoded + body


def _send(stream: BufferedRWPair, head: Mapping[str, Any], body: bytes) -> None:
    stream.write(message(head, body))
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
