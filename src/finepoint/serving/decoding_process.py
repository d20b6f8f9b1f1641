"""The processes in which hostile bytes are decoded: `python -m finepoint.serving.decoding_process CONTROL SLOTS JSON`.

This process is a nursery: it imports the decoders once, then forks a child for each slot, and forks it anew
whenever it dies, in a few milliseconds. A child reads an image from its slot's shared memory and writes crops into it.
Messages on a slot's socket: `!QI` (number of the job, bytes) there; `!QB` and a reason back. On the control socket:
`!BI` (slot, bytes it must not take over; 0 ends the child) there, `!B` (slot whose child died) back.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from finepoint.data.preprocessing import Preprocessing, preprocess
from finepoint.errors import DecodeError
from finepoint.serving.lifetime import die_with_parent

JOB, REPLY, SLOT = struct.Struct("!QI"), struct.Struct("!QB"), struct.Struct("!B")
DECODED, REFUSED = 0, 1
MAX_REASON = 2000
# A decoded photograph of 100 million pixels with transparency takes 1.6 GB on its way; more is an attack.
_MEMORY_BYTES = 3 * 2**30
_IDLE_SECONDS = 1.0


def main(arguments: Sequence[str]) -> None:
    """Keep a child alive for each slot until the server closes the control socket."""
    control = socket.socket(fileno=int(arguments[0]))
    pairs = [tuple(int(number) for number in pair.split(":")) for pair in arguments[1].split(",")]
    slots = [(socket.socket(fileno=first), second) for first, second in pairs]
    descriptions = [Preprocessing.from_json(value) for value in json.loads(arguments[2])]
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the server's to act on
    _warm_up(descriptions)
    children = [_fork(channel, memory, descriptions) for channel, memory in slots]
    while True:
        ready, _, _ = select.select([control.fileno(), *(alive for _, alive in children)], [], [])
        if control.fileno() in ready:
            message = control.recv(SLOT.size)
            if not message:
                break
            (index,) = SLOT.unpack(message)
            os.kill(children[index][0], signal.SIGKILL)
        for index, (pid, alive) in enumerate(children):
            if alive in ready:
                os.close(alive)
                os.waitpid(pid, 0)
                children[index] = _fork(*slots[index], descriptions)
                control.send(SLOT.pack(index))
    for pid, _ in children:
        os.kill(pid, signal.SIGKILL)


def output_bytes(descriptions: Sequence[Preprocessing]) -> int:
    """Return how many bytes the crops of one image take."""
    return sum(description.height * description.width * 3 for description in descriptions)


def crops_in(memory: memoryview, descriptions: Sequence[Preprocessing]) -> list[np.ndarray]:
    """Return a slot's crops, uint8 [h, w, 3], as views of its memory."""
    crops, start = [], 0
    for description in descriptions:
        size = description.height * description.width * 3
        part = np.frombuffer(memory[start : start + size], np.uint8)
        crops.append(part.reshape(description.height, description.width, 3))
        start += size
    return crops


def _fork(channel: socket.socket, memory: int, descriptions: Sequence[Preprocessing]) -> tuple[int, int]:
    """Return the new child's process number and a pipe that ends when it does."""
    alive, held = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(held)
        return pid, alive
    try:
        die_with_parent()
        if os.getppid() == parent:
            _confine()
            _decode_all(channel, memory, descriptions)
    finally:
        os._exit(0)


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    with contextlib.suppress(OSError):
        # Where the machine runs out of memory, this is what should end.
        Path("/proc/self/oom_score_adj").write_text("1000")


def _decode_all(channel: socket.socket, memory: int, descriptions: Sequence[Preprocessing]) -> None:
    shared = memoryview(mmap.mmap(memory, 0))
    room = output_bytes(descriptions)
    targets = crops_in(shared, descriptions)
    while job := _next_job(channel):
        number, size = JOB.unpack(job)
        try:
            data = bytes(shared[room : room + size])
            for target, crop in zip(targets, preprocess(data, descriptions), strict=True):
                target[:] = crop
            channel.send(REPLY.pack(number, DECODED))
        except DecodeError as error:
            channel.send(REPLY.pack(number, REFUSED) + str(error).encode(errors="replace")[:MAX_REASON])
        except MemoryError:
            channel.send(REPLY.pack(number, REFUSED) + b"decoding the image needs too much memory")
        except Exception as error:  # noqa: BLE001 - a decoder may raise anything on hostile bytes; the bytes are to blame
            reason = f"the image is damaged ({type(error).__name__}: {error})"
            channel.send(REPLY.pack(number, REFUSED) + reason.encode(errors="replace")[:MAX_REASON])


def _next_job(channel: socket.socket) -> bytes:
    """Return the next job's message; while there is none for a second, give the system back what malloc has kept."""
    if not select.select([channel], [], [], _IDLE_SECONDS)[0]:
        with contextlib.suppress(OSError, AttributeError):  # not every C library has it
            ctypes.CDLL(None).malloc_trim(0)
    return channel.recv(JOB.size)


def _warm_up(descriptions: Sequence[Preprocessing]) -> None:
    """Load what decodes each format, what reads HEIC too where it is installed, before the children are forked."""
    images = [b"not an image", b"\0\0\0\x18ftypheic"]
    for kind in ("JPEG", "PNG"):
        stream = io.BytesIO()
        Image.new("RGB", (64, 64)).save(stream, kind)
        images.append(stream.getvalue())
    for image in images:
        with contextlib.suppress(DecodeError):
            preprocess(image, descriptions)


if __name__ == "__main__":
    main(sys.argv[1:])
