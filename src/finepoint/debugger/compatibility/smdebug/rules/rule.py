"""Where most custom rules import their base from."""

from finepoint.debugger.rules.custom import StepRule as Rule

__all__ = ["Rule"]
