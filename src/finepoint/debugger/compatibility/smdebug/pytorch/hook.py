"""The hook with smdebug's names, steps and defaults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Self

from finepoint.attaching import is_attached
from finepoint.debugger.hook import Hook as OurHook


class Hook(OurHook):
    """Saves what smdebug would: by default the losses, whole, every 500 steps; without a mode steps are global."""

    compatible = True

    def __init__(self, out_dir: Any = None, *arguments: Any, **named: Any) -> None:
        from smdebug.pytorch.singleton_utils import set_hook

        if out_dir is None:
            raise RuntimeError("out_dir is a required argument")
        super().__init__(out_dir, *arguments, **{"include_workers": "one", **named})
        set_hook(self)

    @classmethod
    def create_from_json_file(cls, json_file_path: str | Path | None = None) -> Self:
        """Return the hook that a file describes; where finepoint only profiles and there is none, one that is silent.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: it is not what it should be.
        """
        try:
            return super().create_from_json_file(json_file_path)
        except FileNotFoundError:
            if json_file_path is not None or not is_attached():
                raise
            sys.stderr.write("finepoint: smdebug's hook records nothing here; `finepoint debug run` records\n")
            return cls("debug-output", dry_run=True)
