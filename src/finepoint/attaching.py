"""Attaching: how code of ours gets into a user's script without a change to the script.

A launcher starts the script with `environment_for(...)`: a folder with a `sitecustomize` stands first on PYTHONPATH,
which every Python process of the job imports before anything else (children, spawned workers and ranks too). It waits
until `torch` has been imported and then calls the *attachments*, functions named in a variable. Each process that was
attached leaves a mark; a launcher that finds none afterwards knows that attaching was defeated (`python -I`, an
environment without finepoint, no torch) and says so.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from finepoint.files import write_json

_FOLDER = Path(__file__).parent / "attached"
_ATTACHMENTS = "FINEPOINT_ATTACHMENTS"
_MARKS = "FINEPOINT_ATTACHED_DIR"
_PATH = "PYTHONPATH"


def environment_for(
    attachments: Sequence[str],
    marks: Path,
    settings: Mapping[str, str] | None = None,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment of a process that is to be attached to.

    Calling it again with what it returned adds attachments, so that the debugger and the profiler go together.

    Args:
        attachments: `package.module:function` each; called without arguments once torch has been imported.
        marks: a folder in which every attached process leaves a file; `attached_processes` reads it.
        settings: variables for the attachments to read.
        base: the environment to start from; by default this process's.

    >>> made = environment_for(["a.b:c"], Path("marks"), base={"PYTHONPATH": "lib"})
    >>> made["FINEPOINT_ATTACHMENTS"], made["PYTHONPATH"].endswith("attached:lib")
    ('a.b:c', True)
    >>> environment_for(["d:e"], Path("marks"), base=made)["FINEPOINT_ATTACHMENTS"]
    'a.b:c,d:e'
    """
    made = dict(os.environ if base is None else base)
    named = [name for name in made.get(_ATTACHMENTS, "").split(",") if name]
    made[_ATTACHMENTS] = ",".join([*named, *(name for name in attachments if name not in named)])
    made[_MARKS] = str(marks.absolute())
    entries = [entry for entry in made.get(_PATH, "").split(os.pathsep) if entry and entry != str(_FOLDER)]
    made[_PATH] = os.pathsep.join([str(_FOLDER), *entries])
    return made | dict(settings or {})


def is_attached() -> bool:
    """Whether a launcher of ours has started this process's job."""
    return bool(os.environ.get(_ATTACHMENTS))


def attached_processes(marks: Path) -> list[dict[str, Any]]:
    """Return what each attached process left: `pid`, `argv`, `attachments`, and `failures` by attachment."""
    return [json.loads(path.read_bytes()) for path in sorted(marks.glob("*.json"))]


def why_not_attached(marks: Path) -> str:
    """Return, after a job, why nothing was attached to it; empty where something was.

    The sentence is for the user; failures of single attachments are told too.
    """
    found = attached_processes(marks)
    if not found:
        return (
            "nothing could be attached to the job: no process of it imported torch with finepoint at hand. "
            "`python -I` and an environment in which finepoint is not installed defeat attaching; start the script "
            "with this environment's python, or use finepoint.debugger.Hook in it"
        )
    failures = {name: text for mark in found for name, text in mark["failures"].items()}
    return "; ".join(f"{name} could not be attached: {text.splitlines()[-1]}" for name, text in failures.items())


def await_torch() -> None:
    """Call the attachments named in the environment as soon as torch has been imported; `sitecustomize` calls this."""
    if not is_attached():
        return
    if "torch" in sys.modules:
        _call_attachments()
    else:
        sys.meta_path.insert(0, _TorchFinder())


class _TorchFinder(importlib.abc.MetaPathFinder):
    """Finds torch as the others do, and has the attachments called when it has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.loader is not None:
            spec.loader = _TorchLoader(spec.loader)
        return spec


class _TorchLoader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # What reads torch's source or resources through its loader is to find the real one.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _call_attachments()


def _call_attachments() -> None:
    names = [name for name in os.environ.get(_ATTACHMENTS, "").split(",") if name]
    failures = {}
    for name in names:
        module, _, function = name.partition(":")
        try:
            getattr(importlib.import_module(module), function)()
        except Exception:  # noqa: BLE001 - the user's job goes on whatever befalls a guest in it; the launcher tells
            failures[name] = traceback.format_exc().strip()
    marks = os.environ.get(_MARKS)
    if marks:
        mark = {"pid": os.getpid(), "argv": sys.orig_argv, "attachments": names, "failures": failures}
        try:
            write_json(Path(marks) / f"{os.getpid()}.json", mark)
        except OSError as error:
            sys.stderr.write(f"finepoint: {marks} cannot be written: {error.strerror}\n")
