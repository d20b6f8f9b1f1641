"""Every error that finepoint raises on purpose.

::

    FinepointError
    ├── InputError                what the user gave cannot be used (exit code 2)
    │   ├── DataError             a folder, a manifest or the images in it
    │   │   ├── DecodeError       one image file that cannot be decoded
    │   │   └── NothingThereError an address that holds no objects
    │   ├── ConfigurationError    flags, hyperparameters, ranges; lists every mistake at once
    │   ├── WeightsError          pretrained weights that are not to be had, or do not fit
    │   ├── PackageError          not a model package, or a damaged one
    │   └── NotFoundError         no run, model or endpoint of that name
    ├── JobError                  a job's process failed
    ├── EndpointError             an endpoint did not start, answer or stop
    │   └── RequestError          an endpoint refused a request; carries the HTTP status
    │       └── AnswerError       it answered, but not with a prediction as finepoint writes it
    ├── CloudError                AWS refused, failed or did not answer; nothing unknown is left running
    ├── StorageError              a disk is full, or a file or folder may not be written
    └── TestPartError             the test part was about to be read before the best model was fixed

A message says what was found, where, and what to do next. Anything else that escapes is a defect of
finepoint's and shows its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class FinepointError(Exception):
    """The root of the tree. `exit_code` is what the command line returns for it."""

    exit_code = 1


class InputError(FinepointError):
    """What the user gave cannot be used."""

    exit_code = 2


class DataError(InputError):
    """A folder of images, a manifest, or their content cannot be used."""


class DecodeError(DataError):
    """One image file cannot be decoded; the message is the reason, without the file's name."""


class NothingThereError(DataError):
    """There are no objects at an address."""


class ConfigurationError(InputError):
    """One or more settings are wrong; all of them are listed in one message.

    >>> str(ConfigurationError(["lr is -1; it must be above 0", "epochs is 0; it must be at least 1"]))
    '2 settings are wrong:\\n  - lr is -1; it must be above 0\\n  - epochs is 0; it must be at least 1'
    """

    def __init__(self, mistakes: Sequence[str] | str) -> None:
        self.mistakes = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        if len(self.mistakes) == 1:
            super().__init__(self.mistakes[0])
        else:
            lines = "".join(f"\n  - {mistake}" for mistake in self.mistakes)
            super().__init__(f"{len(self.mistakes)} settings are wrong:{lines}")


class WeightsError(InputError):
    """Pretrained weights are not to be had here, or do not fit the backbone."""


class PackageError(InputError):
    """A file or folder is not a model package, or is damaged."""


class NotFoundError(InputError):
    """No run, model or endpoint of the given name."""


class JobError(FinepointError):
    """A job's process failed; the message holds its last words and the path of its log."""


class EndpointError(FinepointError):
    """An endpoint did not start, answer or stop."""


class RequestError(EndpointError):
    """An endpoint refused a request. `status` is the HTTP status it answered with."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class AnswerError(RequestError):
    """An endpoint answered with something of its own: a script's handler writes what it likes.

    `content` is the answer, as JSON's value where it is JSON, else as text.
    """

    def __init__(self, content: object) -> None:
        self.content = content
        super().__init__(f"the endpoint's answer is no prediction as finepoint writes it: {str(content)[:200]}", 200)


class CloudError(FinepointError):
    """AWS refused, failed, or did not answer. `code` is its error code, or ""."""

    def __init__(self, message: str, code: str = "") -> None:
        self.code = code
        super().__init__(message)


class StorageError(FinepointError):
    """The system refused to read or write: the disk is full, or there is no permission."""


class TestPartError(FinepointError):
    """The test part was about to be read before the best model was fixed."""

    __test__ = False  # the name is about test data; pytest must not collect it


# What a machine's state or the user's permissions cause; every other OSError is a defect of ours.
_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or have the quota raised",
    errno.EACCES: "change its permissions, or give another place",
    errno.EPERM: "change its permissions, or give another place",
    errno.EROFS: "give another place",
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "give another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
}


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what the system refuses (full disks, permissions) into a `StorageError` with file, reason and remedy.

    >>> with storage_errors():
    ...     raise OSError(errno.ENOSPC, "No space left on device", "/data/x")
    Traceback (most recent call last):
    finepoint.errors.StorageError: /data/x: No space left on device; free some space there
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        place = error.filename2 or error.filename or "a file that was being written"
        raise StorageError(f"{place}: {error.strerror}; {_REMEDIES[error.errno]}") from error
