"""Decoding images in processes that can die alone, from the event loop and without threads.

Each slot is a process, a socket for short messages, and memory that both sides see: the image's bytes are copied in,
the crops are copied out. The nursery in `decoding_process` keeps the processes alive. Measured against threads and
pipes in docs/decisions/031.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import mmap
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence

import numpy as np

from finepoint.data.preprocessing import Preprocessing
from finepoint.errors import RequestError
from finepoint.serving.decoding_process import DECODED, JOB, MAX_REASON, REPLY, SLOT, crops_in, output_bytes

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # the nursery is about to fork, and multiplies no matrices
    # What a large image took goes back to the system; what an ordinary one takes is kept (bytes; glibc's defaults
    # grow with the largest image ever freed).
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**20),
}

# A PNG of one grey pixel.
_SAMPLE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


class DecoderPool:
    """Processes that turn image files into crops.

    Args:
        descriptions: what to make of each image.
        processes: how many at once.
        image_bytes: the largest image file.
        seconds: that decoding one image may take.

    Attributes:
        deaths: processes that died or were ended since the start.
    """

    def __init__(
        self, descriptions: Sequence[Preprocessing], *, processes: int, image_bytes: int, seconds: float = 10.0
    ) -> None:
        self._descriptions = tuple(descriptions)
        self._seconds = seconds
        self._image_bytes = image_bytes
        self._slots = [_Slot(output_bytes(self._descriptions) + image_bytes) for _ in range(processes)]
        self._free = deque(self._slots)
        self._waiting: deque[asyncio.Future[_Slot]] = deque()
        self._control: socket.socket | None = None
        self._nursery: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self.deaths = 0
        self._start()  # at once, so that its imports run beside the loading of the model

    async def open(self) -> None:
        """Connect to the running event loop."""
        loop = asyncio.get_running_loop()
        for slot in self._slots:
            loop.add_reader(slot.channel, self._on_reply, slot)
        assert self._control is not None
        loop.add_reader(self._control, self._on_death)

    async def warm_up(self) -> None:
        """Return once each process has decoded an image, so that no client waits for its start."""
        works = [slot.run(_SAMPLE, output_bytes(self._descriptions)) for slot in self._slots]
        for outcome in await asyncio.gather(*works, return_exceptions=True):
            # One that died is replaced already; anything else is a defect.
            if isinstance(outcome, BaseException) and not isinstance(outcome, _DiedError):
                raise outcome

    def close(self) -> None:
        """End the processes."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        for slot in self._slots:
            loop.remove_reader(slot.channel)
            slot.close()
        if self._control is not None:
            loop.remove_reader(self._control)
            self._control.close()
        if self._nursery is not None:
            self._nursery.kill()
            self._nursery.wait()

    async def decode(self, data: bytes) -> list[np.ndarray]:
        """Return an image file's bytes as one uint8 [h, w, 3] crop for each description.

        Raises:
            RequestError: it cannot be decoded, takes too long, or brings its process down (400).
        """
        if len(data) > self._image_bytes:
            raise RequestError(f"the image is larger than {self._image_bytes:,} bytes", 413)
        # A process may die for a reason that is not this image's: it gets a second one before it is to blame.
        for _ in range(2):
            slot = await self._acquire()
            # Once begun a job is waited for, whoever still wants it; else its slot would be anybody's guess.
            job = asyncio.get_running_loop().create_task(self._decode_in(slot, data))
            job.add_done_callback(_forget)
            crops = await asyncio.shield(job)
            if crops is not None:
                return crops
        raise RequestError("the process that decoded the image died of it; the image is damaged or hostile", 400)

    async def _decode_in(self, slot: _Slot, data: bytes) -> list[np.ndarray] | None:
        """Return the crops, or None where the slot's process died."""
        try:
            status, reason = await asyncio.wait_for(slot.run(data, output_bytes(self._descriptions)), self._seconds)
        except TimeoutError:
            self._end_child(slot)
            raise RequestError(f"the image took longer than {self._seconds:g} s to decode", 400) from None
        except _DiedError:
            self._release(slot)
            return None
        crops = [crop.copy() for crop in crops_in(slot.memory, self._descriptions)] if status == DECODED else []
        self._release(slot)
        if status != DECODED:
            raise RequestError(reason, 400)
        return crops

    async def _acquire(self) -> _Slot:
        if self._free:
            return self._free.popleft()
        waiter: asyncio.Future[_Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release(waiter.result())
            raise

    def _release(self, slot: _Slot) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self._free.append(slot)

    def _end_child(self, slot: _Slot) -> None:
        """Have a slot's child killed; the slot is free again when its successor lives."""
        slot.ending = True
        assert self._control is not None
        with contextlib.suppress(OSError):  # the nursery has just died, which ends its children too
            self._control.send(SLOT.pack(self._slots.index(slot)))

    def _on_reply(self, slot: _Slot) -> None:
        with contextlib.suppress(BlockingIOError):
            reply = slot.channel.recv(REPLY.size + MAX_REASON)
            if len(reply) >= REPLY.size:
                number, status = REPLY.unpack_from(reply)
                slot.finish(number, status, reply[REPLY.size :].decode(errors="replace"))

    def _on_death(self) -> None:
        assert self._control is not None
        try:
            message = self._control.recv(SLOT.size)
        except ConnectionError:
            message = b""
        if message:
            self._on_child_death(self._slots[SLOT.unpack(message)[0]])
        elif not self._stopping:
            self._restart()

    def _on_child_death(self, slot: _Slot) -> None:
        self.deaths += 1
        slot.fail()
        if slot.ending:
            slot.ending = False
            self._release(slot)

    def _restart(self) -> None:
        """Start the nursery anew; its children died with it."""
        loop = asyncio.get_running_loop()
        assert self._control is not None and self._nursery is not None
        loop.remove_reader(self._control)
        self._control.close()
        self._nursery.wait()
        self._start()
        loop.add_reader(self._control, self._on_death)
        for slot in self._slots:
            self._on_child_death(slot)

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        shared = [number for slot in self._slots for number in (slot.theirs.fileno(), slot.file)]
        pairs = ",".join(f"{slot.theirs.fileno()}:{slot.file}" for slot in self._slots)
        description = json.dumps([description.to_json() for description in self._descriptions])
        command = [sys.executable, "-m", __name__.replace("decoders", "decoding_process")]
        self._nursery = subprocess.Popen(
            [*command, str(theirs.fileno()), pairs, description],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
            pass_fds=[
                theirs.fileno(),
                *shared,
            ],
        )
        theirs.close()


def _forget(job: asyncio.Task[list[np.ndarray] | None]) -> None:
    """Look at a job's exception, so that asyncio does not complain where its client has gone."""
    if not job.cancelled():
        job.exception()


class _DiedError(Exception):
    """A slot's process died in the middle of a job."""


class _Slot:
    """One process's socket and memory, and the job it is at."""

    def __init__(self, size: int) -> None:
        # Message by message, so that a reply that comes late is dropped whole.
        self.channel, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self.file = os.memfd_create("finepoint-decoder")
        os.ftruncate(self.file, size)  # pages cost memory once they are used
        self._map = mmap.mmap(self.file, size)
        self.memory = memoryview(self._map)
        self.ending = False
        self._number = 0
        self._job: asyncio.Future[tuple[int, str]] | None = None

    async def run(self, data: bytes, start: int) -> tuple[int, str]:
        self._number += 1
        self.memory[start : start + len(data)] = data
        self._job = asyncio.get_running_loop().create_future()
        self.channel.send(JOB.pack(self._number, len(data)))
        return await self._job

    def finish(self, number: int, status: int, reason: str) -> None:
        if number == self._number and self._job is not None:
            job, self._job = self._job, None
            if not job.done():
                job.set_result((status, reason))

    def fail(self) -> None:
        if self._job is not None:
            job, self._job = self._job, None
            if not job.done():
                job.set_exception(_DiedError())

    def close(self) -> None:
        self.channel.close()
        self.theirs.close()
        os.close(self.file)
