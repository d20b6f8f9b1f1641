"""Scripts that jobs run; they are no modules of ours to be imported."""

from __future__ import annotations

from pathlib import Path

collect_ignore_glob = ["scripts/*"]
SCRIPTS = Path(__file__).parent / "scripts"
