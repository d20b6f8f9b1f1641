"""A script's job once more, in a folder of its own: what `finepoint profile try` measures changes with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finepoint.engines.binding import launch, why_not_bindable
from finepoint.engines.channels import on_this_machine
from finepoint.engines.container import PORT, hosts_of, lay_out, script_command, variables
from finepoint.engines.environments import python_for
from finepoint.engines.records import JobFolder
from finepoint.errors import InputError
from finepoint.profiler.trying import Command


def job_again(job: Path, say: Callable[[str], None]) -> Callable[[Path], Command] | None:
    """Return what lays a script's job out in an empty folder and says how to run it; None where it is no such job.

    The job's own folder, its checkpoints and its model are left alone.

    Args:
        job: its folder.
        say: is told what is brought or installed.

    Raises:
        InputError: its record is damaged, or it runs on several hosts.
        ConfigurationError: what its spec names is not there any more.
    """
    if not JobFolder(job).read().get("spec", {}).get("entry_point"):
        return None
    given = replace(JobFolder(job).spec(), checkpoint_location="")
    if given.resources.instance_count > 1:
        raise InputError(f"{job} ran on {given.resources.instance_count} hosts; changes are tried on one only")

    def again(folder: Path) -> Command:
        folder.mkdir()
        spec = on_this_machine(given, folder / "input" / "manifests", say)
        (host,) = hosts_of(folder, spec, named=False, port=PORT)
        lay_out(host, spec)
        python = python_for(host.code, spec.entry_point, offline=spec.requirements == "offline", say=say)
        bound = {} if why_not_bindable() else {"folder": str(folder)}
        command = launch(script_command(host, spec, python), supervisor=str(os.getpid()), **bound)
        return Command(command, str(host.code), variables(host, spec, python))

    return again
