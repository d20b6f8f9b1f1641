"""Reading recordings."""

from finepoint.debugger.trial import Trial, create_trial

__all__ = ["Trial", "create_trial"]
