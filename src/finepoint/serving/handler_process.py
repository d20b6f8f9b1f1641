"""The process in which a package's own handler runs: `python -m finepoint.serving.handler_process FOLDER SOCKET`.

Each message is the lengths of its two parts, a JSON head and a body. The first one that this process sends says that
the model is loaded, or why not.

It is two processes. The first one keeps the second, in which the handler runs: when that ends, or the server does (also
by SIGKILL), it kills the whole group, and with it what the handler has started.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Mapping, Sequence
from io import BufferedRWPair
from pathlib import Path
from typing import Any, NoReturn

from finepoint.serving.lifetime import die_with_parent
from finepoint.serving.toolkit import Handler

LENGTHS = struct.Struct("!IQ")


def main(arguments: Sequence[str]) -> int:
    """Answer requests, in a child, until the server closes the socket; then end all that the handler has started."""
    server = socket.socket(fileno=int(arguments[1]))
    keeper = os.getpid()
    child = os.fork()
    if child:
        _keep(child, server)
    die_with_parent()
    return _serve(Path(arguments[0]), server) if os.getppid() == keeper else 1


def _keep(child: int, server: socket.socket) -> NoReturn:
    """Wait for the end of a child or of the server, and kill this process's group."""
    wake, woken = socket.socketpair()
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno())
    ends = select.poll()
    ends.register(server, 0)  # nothing but that the other side has closed; what it says is the child's to read
    ends.register(wake, select.POLLIN)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if any(number == server.fileno() for number, _ in ends.poll()):
            break
        wake.recv(1)
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _serve(folder: Path, server: socket.socket) -> int:
    stream = server.makefile("rwb")
    try:
        handler = Handler(folder)
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
