"""Starts a job's process: binds `/opt/ml` for it alone, sees to it that it ends with its supervisor, and becomes it.

Run as a file, isolated (`python -I launcher.py ...`), so that nothing in a script's folder can get in its way; hence it
imports only the standard library. Arguments: the folder to bind at `/opt/ml` or "", a file to bind at `/etc/hosts` or
"", the id of the supervisor's process, and the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_PR_SET_PDEATHSIG = 1
# As `env` and shells do: the command was found but could not be started, or was not found.
_CANNOT_START, _NOT_FOUND = 126, 127
_CANNOT_BIND = 125

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> int:
    """Bind, and become the command; returns only where that fails."""
    folder, hosts, supervisor, *command = arguments
    try:
        if folder:
            bind(folder, hosts)
    except OSError as error:
        sys.stderr.write(f"error: /opt/ml cannot be bound: {error.strerror}\n")
        return _CANNOT_BIND
    if supervisor:
        end_with(int(supervisor))
        if os.getppid() != int(supervisor):
            return _CANNOT_START  # it went away meanwhile
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the command is what this file is for
    except OSError as error:
        sys.stderr.write(f"error: {command[0]} cannot be started: {error.strerror}\n")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_START


def bind(folder: str, hosts: str) -> None:
    """Put `folder` at `/opt/ml` and `hosts` at `/etc/hosts`, as this process and its children see them.

    `/opt` is covered by an empty folder in which what it held is bound again: nobody needs the right to create
    `/opt/ml`, and nothing changes outside.

    Raises:
        OSError: the system does not allow it.
    """
    # An administrator needs no user namespace, in which other users' files would be closed to him.
    if _libc.unshare(_CLONE_NEWNS) != 0:
        user, group = os.getuid(), os.getgid()
        _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    before = os.open("/opt", os.O_PATH)
    _mount("tmpfs", "/opt", "tmpfs", 0)
    for old in Path(f"/proc/self/fd/{before}").iterdir():
        new = Path("/opt", old.name)
        if old.name == "ml":
            continue
        if old.is_symlink():
            new.symlink_to(old.readlink())
            continue
        if old.is_dir():
            new.mkdir()
        else:
            new.touch()
        _mount(str(old), str(new), None, _MS_BIND | _MS_REC)
    os.close(before)
    Path("/opt/ml").mkdir()
    _mount(folder, "/opt/ml", None, _MS_BIND | _MS_REC)
    if hosts:
        _mount(hosts, "/etc/hosts", None, _MS_BIND)


def end_with(supervisor: int) -> None:
    """Leave a process behind that kills this one and all that it starts when the supervisor is gone.

    The system tells only a child that its parent died, not what a shell or torchrun started below it. The watching
    process is nobody's child: a script that waits for its children is not to find one that it never started.
    """
    job = os.getpid()
    try:
        watched = [os.pidfd_open(supervisor), os.pidfd_open(job)]
    except OSError:  # the system is too old for it, or the supervisor is gone
        _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)), "prctl")
        return
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    if os.fork():
        os._exit(0)
    os.setsid()  # what stops the job is not for this process
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    ended = select.select(watched, [], [])[0]
    if watched[1] not in ended:
        for process in (job, *_below(job)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job, signal.SIGKILL)
    os._exit(0)


def _below(process: int) -> list[int]:
    """Return the descendants of a process."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything.
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [process]
    for parent in found:
        found += [child for child in parents if parents[child] == parent]
    return found[1:]


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), None), f"mount {target}")


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
