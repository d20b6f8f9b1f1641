"""Modes."""

from finepoint.debugger.modes import ModeKeys

__all__ = ["ModeKeys"]
