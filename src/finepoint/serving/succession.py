"""What brings an endpoint's supervisor back when it is killed: its worker.

The worker starts another supervisor on the same socket and goes on answering. That one takes over the endpoint's entry
in the registry, starts a worker of its own, and tells the old one to stop once the new one is warm. Where the entry is
gone (the endpoint was removed meanwhile) or names somebody else, it ends, and the old worker with it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from finepoint.serving import registry
from finepoint.serving.versions import package_version


def start_successor(arguments: Sequence[str], listener: socket.socket, predecessor: int) -> socket.socket:
    """Start another supervisor and return a socket on which it says, or shows by its end, that this worker is to stop.

    Args:
        arguments: this worker's.
        listener: the socket that it accepts from.
        predecessor: number of the process that was its supervisor.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--listen-fd")
    parser.add_argument("--ready-fd")
    kept = parser.parse_known_args(arguments)[1]
    ours, theirs = socket.socketpair()
    for each in (listener, theirs):
        os.set_inheritable(each.fileno(), True)
    command = [sys.executable, "-m", "finepoint.serving.supervisor", *kept, "--listen-fd", str(listener.fileno())]
    command += ["--predecessor", str(predecessor), "--predecessor-fd", str(theirs.fileno())]
    os.posix_spawn(command[0], command, os.environ)  # it outlives this process
    theirs.close()
    ours.setblocking(False)
    return ours


def take_over(name: str, model: str, predecessor: int) -> bool:
    """Write this process into an endpoint's entry, and return whether the entry was the predecessor's.

    Args:
        name: the endpoint's.
        model: the package that it serves now.
        predecessor: number of the process whose entry it is: the supervisor that was killed, or who deploys.
    """
    mine = {"pid": os.getpid(), "process_started": psutil.Process().create_time()}
    record = registry.find(name)
    if record is None or model == record.model:
        return registry.change(name, predecessor, **mine)
    # It died when an update was done and not yet written down.
    return registry.change(name, predecessor, **mine, model=model, model_version=package_version(Path(model)))
