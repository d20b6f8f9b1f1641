"""Pipe input of the stand-in: for each epoch a named pipe, `CHANNEL_0`, `CHANNEL_1`, ..., that objects stream into."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from finepoint.engines.rehearsal.objects import Objects

# Between two looks whether somebody reads.
_LOOK_SECONDS = 0.05


class Pipe:
    """One channel in Pipe mode.

    Args:
        objects: of the account.
        source: the channel's `S3DataSource`.
        place: `input/data/CHANNEL`, which the pipes are named after.
    """

    def __init__(self, objects: Objects, source: Mapping[str, str], place: Path) -> None:
        self._objects, self._source, self._place = objects, source, place
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._path = self._make(0)

    def start(self) -> None:
        """Wait for readers from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no further epoch."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        epoch = 0
        while (pipe := self._reader()) is not None:
            following = self._make(epoch + 1)  # before the end of this one is seen
            with open(pipe, "wb") as stream:  # noqa: PTH123 - a descriptor
                try:
                    for _, bucket, key in self._objects.channel(self._source):
                        stream.write(self._objects.read(f"s3://{bucket}/{key}"))
                except BrokenPipeError:
                    pass  # the script had enough of this epoch
            epoch, self._path = epoch + 1, following

    def _make(self, epoch: int) -> Path:
        path = self._place.with_name(f"{self._place.name}_{epoch}")
        os.mkfifo(path)
        return path

    def _reader(self) -> int | None:
        """Return the pipe's writing end once somebody reads; None at the end of the job."""
        while not self._over.is_set():
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return None  # the job's folder is gone
                self._over.wait(_LOOK_SECONDS)
            else:
                os.set_blocking(descriptor, True)
                return descriptor
        return None
