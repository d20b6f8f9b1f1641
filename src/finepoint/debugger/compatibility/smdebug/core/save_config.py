"""When to save."""

from finepoint.debugger.configuration import SaveConfig, SaveConfigMode

__all__ = ["SaveConfig", "SaveConfigMode"]
