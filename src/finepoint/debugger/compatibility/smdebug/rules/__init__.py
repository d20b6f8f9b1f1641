"""Rules of one's own, as smdebug has them."""

from finepoint.debugger.rules.custom import StepRule as Rule
from finepoint.debugger.rules.custom import invoke_rule

__all__ = ["Rule", "invoke_rule"]
