"""The errors that smdebug raises, as far as ours can."""

from finepoint.debugger.trial import NoMoreData, StepUnavailable, TensorUnavailable, TensorUnavailableForStep
from finepoint.errors import ConfigurationError, FinepointError

SMDebugError = FinepointError
SMDebugValueError = SMDebugTypeError = SMDebugRuntimeError = ConfigurationError

__all__ = [
    "NoMoreData",
    "SMDebugError",
    "SMDebugRuntimeError",
    "SMDebugTypeError",
    "SMDebugValueError",
    "StepUnavailable",
    "TensorUnavailable",
    "TensorUnavailableForStep",
]
