"""A small package of smdebug's name, from finepoint: what training scripts and notebooks use of it.

Its hook keeps smdebug's names, steps and defaults, and writes finepoint's recordings.
"""

from finepoint.debugger.collection import CollectionKeys
from finepoint.debugger.configuration import ReductionConfig, SaveConfig, SaveConfigMode
from finepoint.debugger.modes import ModeKeys as modes  # noqa: N813 - smdebug's name for it

__version__ = "1.0.34+finepoint"

__all__ = ["CollectionKeys", "ReductionConfig", "SaveConfig", "SaveConfigMode", "modes"]
