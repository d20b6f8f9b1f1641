"""A job's checkpoints that are kept at an address: brought before it starts, sent while it runs, and at its end.

As in SageMaker, what the job removes stays at the address. There a file is whole or not at all: one that is being
written is left for later, and files are sent in the order they were written in, so that what names another comes after
it. What could not be sent is known from a record beside the folder, and is sent before the next start.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finepoint.errors import FinepointError, NothingThereError
from finepoint.files import read_json, write_json
from finepoint.stores import store_of

# Between two looks; a file that has not changed from one to the next is taken for whole.
_SECONDS = 5.0
_RECORD = "checkpoints.json"

# Size and time of change, in nanoseconds.
State = list[int]


def is_remote(location: str) -> bool:
    """Return whether checkpoints are to be kept at an address, and not in a folder of this machine.

    >>> is_remote("s3://photos/checkpoints"), is_remote("file:///data/checkpoints"), is_remote("")
    (True, False, False)
    """
    return "://" in location.removeprefix("file://")


class KeptCheckpoints:
    """Keeps a job's `checkpoints/` at an address; does nothing where that is none.

    Args:
        job: its folder.
        address: `s3://BUCKET/PREFIX`, or a folder's, or "".
        say: is told what is done.
    """

    def __init__(self, job: Path, address: str, say: Callable[[str], None]) -> None:
        self._folder, self._record = job / "checkpoints", job / _RECORD
        self._address, self._say = address, say
        self._store = store_of(address) if is_remote(address) else None
        self._sent: dict[str, State] = {}
        self._before: dict[str, State] = {}
        self._failed = ""

    def bring(self) -> None:
        """Bring what lies at the address, once what an earlier run could not send is there.

        Raises:
            DataError: what lies there cannot be used.
            CloudError: AWS refused or failed.
        """
        if self._store is None:
            return
        unsent = self._files()
        if self._record.is_file() and (record := read_json(self._record))["address"] == self._address:
            self._sent = dict(record["files"])
            self._send(unsent)
            unsent = {}
        self._say(f"Bringing checkpoints from {self._address}")
        with contextlib.suppress(NothingThereError):  # the first run
            self._store.folder(self._address, self._folder)
        self._sent = {name: state for name, state in self._files().items() if unsent.get(name) != state}
        self._note()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send what is written while the block runs; what does not arrive is tried again."""
        if self._store is None:
            yield
            return
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(_SECONDS):
                files = self._files()
                self._try({name: state for name, state in files.items() if self._before.get(name) == state})
                self._before = files

        thread = threading.Thread(target=follow, name="checkpoints", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def end(self) -> None:
        """Send the rest, now that nothing writes any more; say so where that fails."""
        if self._store is not None and not self._try(self._files()):
            self._say(
                f"warning: not all checkpoints are at {self._address}: {self._failed}. They are in {self._folder}; "
                "the same job, run again, sends them before it starts"
            )

    def _try(self, files: dict[str, State]) -> bool:
        try:
            self._send(files)
        except (FinepointError, OSError) as error:
            if str(error) != self._failed:
                self._failed = str(error)
                self._say(f"warning: a checkpoint could not be sent yet: {error}")
            return False
        return True

    def _send(self, files: dict[str, State]) -> None:
        """Send those of some files that are new or have changed, the oldest first."""
        assert self._store is not None
        changed = [(state[1], name) for name, state in files.items() if self._sent.get(name) != state]
        try:
            for _, name in sorted(changed):
                with contextlib.suppress(FileNotFoundError):  # the job has removed it
                    self._store.send({name: self._folder / name}, self._address)
                    self._sent[name] = files[name]
        finally:
            if changed:
                self._note()

    def _note(self) -> None:
        write_json(self._record, {"address": self._address, "files": self._sent})

    def _files(self) -> dict[str, State]:
        found = {}
        for root, _, names in os.walk(self._folder):
            for name in names:
                path = Path(root, name)
                try:
                    state = path.stat()
                except FileNotFoundError:
                    continue
                found[path.relative_to(self._folder).as_posix()] = [state.st_size, state.st_mtime_ns]
        return found
