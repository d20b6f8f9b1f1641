"""The house keeps its shape: arrows between rooms, fast imports, the public names, the size of modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import finepoint

SOURCE = Path(finepoint.__file__).parent
# Each room may import itself and what stands in a later line.
FLOORS = [
    {"cli"},
    {"notebook"},
    {"runs"},
    {"engines"},
    {"training"},
    {"tuning"},
    {"serving"},
    {"evaluation", "debugger", "profiler"},
    {"models"},
    {"data"},
    {"batches", "loops", "transfers"},
    {"attached"},
    {"attaching", "caching"},
    {"findings", "files", "events", "instrumentation", "results", "stores"},
    {"errors", "patching"},
]
PEERS = ({"training", "tuning", "serving"},)


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("finepoint."):
            found.add(node.module.split(".")[1])
    return found


def _floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_imports_point_one_way() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in ("__init__", "report"):
            continue
        for other in _imports(path) - {room}:
            if other == "report":
                allowed = room in ("cli", "notebook", "runs")
            else:
                peers = any({room, other} <= group for group in PEERS)
                allowed = _floor(other) > _floor(room) and not peers
            if not allowed:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert wrong == []


def test_the_report_imports_none_of_the_rooms_that_wrote_its_files() -> None:
    used = set().union(*(_imports(path) for path in (SOURCE / "report").glob("*.py")))
    assert used <= {"report", "files", "errors", "findings"}


def test_no_module_is_longer_than_500_lines() -> None:
    assert [path.name for path in SOURCE.rglob("*.py") if len(path.read_text().splitlines()) > 500] == []


def test_importing_finepoint_is_fast_and_brings_no_torch() -> None:
    code = "import sys, time; t = time.perf_counter(); import finepoint; finepoint.run; finepoint.load; "
    code += "print(time.perf_counter() - t, 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert answer[1] == "False"
    plain = "import time; t = time.process_time(); import finepoint; print(time.process_time() - t)"
    seconds = float(subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True, check=True).stdout)
    assert seconds < 0.2


def test_the_server_imports_no_torch() -> None:
    code = "import sys, finepoint.serving.__main__, finepoint.models.classifier; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_public_names() -> None:
    assert finepoint.__all__ == [
        "CategoricalParameter",
        "Classifier",
        "ContinuousParameter",
        "DataSet",
        "Endpoint",
        "Finding",
        "FinepointError",
        "IntegerParameter",
        "Prediction",
        "Run",
        "check",
        "deploy",
        "endpoints",
        "evaluate",
        "find_endpoint",
        "load",
        "run",
        "train",
        "tune",
        "undeploy",
    ]
    for name in finepoint.__all__:
        assert getattr(finepoint, name).__doc__
