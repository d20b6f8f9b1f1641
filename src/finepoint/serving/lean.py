"""Importing OpenVINO without its model converter, which no server needs.

The converter is most of the import's time, and tells Intel of each import over the network (`openvino_telemetry`).
OpenVINO does without it where it cannot be imported, and that is what this module makes it believe. For the process of
a server only: in a user's own process `openvino.convert_model` may be wanted.
"""

from __future__ import annotations

import contextlib
import sys

_CONVERTER = "openvino.tools.ovc"


def import_openvino() -> None:
    """Import OpenVINO, where it is installed, without its converter; the converter can be imported later."""
    if "openvino" in sys.modules:
        return
    sys.modules[_CONVERTER] = None  # type: ignore[assignment] # Python's way to say that there is no such module
    try:
        with contextlib.suppress(ImportError):  # then another runtime computes
            import openvino  # noqa: F401
    finally:
        del sys.modules[_CONVERTER]
