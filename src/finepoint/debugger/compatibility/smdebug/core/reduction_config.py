"""What to save."""

from finepoint.debugger.configuration import ReductionConfig

__all__ = ["ReductionConfig"]
