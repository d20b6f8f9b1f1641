"""The one hook of a process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from finepoint.debugger.hook_file import VARIABLE

_hooks: list[Any] = []


def get_hook(json_config_path: str | None = None, create_if_not_exists: bool = False) -> Any:
    """Return the hook that was made last; where there is none, make it from its file if asked to, else None."""
    if not _hooks and create_if_not_exists:
        from smdebug.pytorch.hook import Hook

        if json_config_path is not None or Path(os.environ.get(VARIABLE, "")).is_file():
            Hook.create_from_json_file(json_config_path)
    return _hooks[-1] if _hooks else None


def set_hook(hook: Any) -> None:
    """Make a hook the one that `get_hook` returns."""
    _hooks[:] = [hook]


def del_hook() -> None:
    """Forget it."""
    _hooks.clear()
