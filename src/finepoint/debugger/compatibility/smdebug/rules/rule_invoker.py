"""Where notebooks import `invoke_rule` from."""

from finepoint.debugger.rules.custom import invoke_rule

__all__ = ["invoke_rule"]
