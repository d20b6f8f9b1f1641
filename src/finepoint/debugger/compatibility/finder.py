"""Finds our `smdebug` where no real one is installed, so that scripts which import it run unchanged."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_FOLDER = str(Path(__file__).parent)


class CompatibilityFinder:
    """Stands last among the finders: whatever else finds an `smdebug` comes first.

    It is no `importlib.abc.MetaPathFinder` in name: importing that would be the longest part of importing finepoint.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where our `smdebug` lies; its modules are then found in its folder, as usual."""
        return importlib.machinery.PathFinder.find_spec(name, [_FOLDER]) if name == "smdebug" else None


def provide_smdebug() -> None:
    """Let `import smdebug` find our package from now on, unless a real one is installed."""
    if not any(isinstance(finder, CompatibilityFinder) for finder in sys.meta_path):
        sys.meta_path.append(CompatibilityFinder())
