"""Where some notebooks import `create_trial` from."""

from finepoint.debugger.trial import create_trial

__all__ = ["create_trial"]
