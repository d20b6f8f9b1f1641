"""The errors that smdebug raises, as far as ours can."""

from finepoint.debugger.rules.custom import RuleEvaluationConditionMet
from finepoint.debugger.trial import NoMoreData, StepUnavailable, TensorUnavailable, TensorUnavailableForStep
from finepoint.errors import ConfigurationError, FinepointError

SMDebugError = FinepointError
SMDebugValueError = SMDebugTypeError = SMDebugRuntimeError = ConfigurationError

__all__ = [
    "NoMoreData",
    "RuleEvaluationConditionMet",
    "SMDebugError",
    "SMDebugRuntimeError",
    "SMDebugTypeError",
    "SMDebugValueError",
    "StepUnavailable",
    "TensorUnavailable",
    "TensorUnavailableForStep",
]
