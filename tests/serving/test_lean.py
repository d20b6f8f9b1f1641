"""The server's import of OpenVINO."""

from __future__ import annotations

import subprocess
import sys


def test_the_server_imports_openvino_without_its_converter_and_without_telling_anybody() -> None:
    code = """
import sys
from finepoint.serving.lean import import_openvino
import_openvino()
import openvino
print(openvino.Core is not None, any("telemetry" in name or name.startswith("openvino.tools.") for name in sys.modules))
from openvino.tools.ovc import convert_model
print(callable(convert_model))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True False\nTrue\n", done.stderr
