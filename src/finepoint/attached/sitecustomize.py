"""Python imports this at the start of a process when `finepoint.attaching` put its folder first on PYTHONPATH.

It must cost next to nothing and fail in no environment: every Python process that a job starts comes through here.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys


def _attach() -> None:
    try:
        from finepoint.attaching import await_torch
    except ImportError:
        return  # an environment without finepoint; the launcher sees that nobody left a mark, and says so
    await_torch()


def _go_on_with_the_hidden_one() -> None:
    """Run the `sitecustomize` that would have been imported, had ours not been first."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib would slow every process
    others = [entry for entry in sys.path if os.path.abspath(entry) != here]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_attach()
_go_on_with_the_hidden_one()
