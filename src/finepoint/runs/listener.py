"""Whoever watches a run: every method may be left as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finepoint.tuning.state import StudyState


class Listener:
    """Is told how a run goes on; this one does nothing."""

    def step(self, name: str, text: str) -> None:
        """A step begins: `check`, `tune`, `train`, `evaluate`, `package`, `report`."""

    def progress(self, what: str, done: int, total: int) -> None:
        """So many of so many images were checked or embedded; or bytes were downloaded, files extracted."""

    def study(self, state: StudyState) -> None:
        """A trial started, reported or ended."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch of the final training ended."""

    def note(self, text: str) -> None:
        """Something that the user should know."""
