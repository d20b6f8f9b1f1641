"""The debugger: a hook that records what training does, recordings, and rules that name what is wrong with it.

It works in any PyTorch script, with no other part of finepoint.

>>> from finepoint.debugger import Hook, SaveConfig, modes             # doctest: +SKIP
>>> hook = Hook("debug-output")                                       # doctest: +SKIP
>>> hook.register_module(model)                                       # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# At once: later the submodule's name would stand in the way of the name that smdebug's users know.
from finepoint.debugger.modes import modes as modes

# Public name to the module that has it; imported when first used: reading a recording needs no torch.
_PUBLIC = {
    "Collection": "collection",
    "CollectionKeys": "collection",
    "Hook": "hook",
    "ModeKeys": "modes",
    "Recording": "recording",
    "RecordingWriter": "writing",
    "ReductionConfig": "configuration",
    "SaveConfig": "configuration",
    "SaveConfigMode": "configuration",
    "Series": "recording",
    "Trial": "trial",
    "create_trial": "trial",
    "recorded": "context",
}

if TYPE_CHECKING:
    from finepoint.debugger.collection import Collection as Collection
    from finepoint.debugger.collection import CollectionKeys as CollectionKeys
    from finepoint.debugger.configuration import ReductionConfig as ReductionConfig
    from finepoint.debugger.configuration import SaveConfig as SaveConfig
    from finepoint.debugger.configuration import SaveConfigMode as SaveConfigMode
    from finepoint.debugger.hook import Hook as Hook
    from finepoint.debugger.modes import ModeKeys as ModeKeys
    from finepoint.debugger.recording import Recording as Recording
    from finepoint.debugger.recording import Series as Series
    from finepoint.debugger.writing import RecordingWriter as RecordingWriter

__all__ = sorted([*_PUBLIC, "modes"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'finepoint.debugger' has no attribute {name!r}")
    return getattr(import_module(f"finepoint.debugger.{_PUBLIC[name]}"), name)
