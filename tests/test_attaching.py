"""Attaching: code of ours runs in every process of a job that imports torch, and says so where it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finepoint.attaching import attached_processes, environment_for, why_not_attached

GUEST = "import os, sys\ndef hello():\n    sys.stderr.write('hello ' + os.environ['GREETING'] + '\\n')\n"


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A folder with a module to attach, and a small `torch`, so that no test waits for the real one."""
    (tmp_path / "guest.py").write_text(GUEST)
    (tmp_path / "torch.py").write_text("ready = True\n")
    return tmp_path


def _run(guest: Path, *arguments: str, attachments: tuple[str, ...] = ("guest:hello",)) -> str:
    environment = environment_for(attachments, guest / "marks", {"GREETING": "there"}, {"PYTHONPATH": str(guest)})
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True, cwd=guest)
    return done.stderr


def test_an_attachment_is_called_when_torch_has_been_imported_and_leaves_a_mark(guest: Path) -> None:
    assert _run(guest, sys.executable, "-c", "import torch; assert torch.ready") == "hello there\n"
    (mark,) = attached_processes(guest / "marks")
    assert mark["attachments"] == ["guest:hello"] and mark["failures"] == {}
    assert why_not_attached(guest / "marks") == ""


def test_child_processes_are_attached_too(guest: Path) -> None:
    code = "import subprocess, sys, torch; subprocess.run([sys.executable, '-c', 'import torch'], check=True)"
    assert _run(guest, sys.executable, "-c", code) == "hello there\n" * 2


def test_without_torch_nothing_is_attached_and_the_launcher_can_say_so(guest: Path) -> None:
    assert _run(guest, sys.executable, "-c", "pass") == ""
    assert "nothing could be attached" in why_not_attached(guest / "marks")


def test_isolated_mode_defeats_attaching_and_the_launcher_can_say_so(guest: Path) -> None:
    assert (
        _run(guest, sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(guest)!r}); import torch") == ""
    )
    assert "python -I" in why_not_attached(guest / "marks")


def test_a_failing_attachment_does_not_end_the_job_and_is_told(guest: Path) -> None:
    assert _run(guest, sys.executable, "-c", "import torch", attachments=("guest:missing", "guest:hello")) == (
        "hello there\n"
    )
    assert "guest:missing could not be attached: AttributeError" in why_not_attached(guest / "marks")


def test_a_sitecustomize_that_was_there_before_still_runs(guest: Path) -> None:
    (guest / "sitecustomize.py").write_text("import sys\nsys.stderr.write('mine\\n')\n")
    code = f"import torch, sitecustomize; assert sitecustomize.__file__.startswith({str(guest)!r})"
    assert _run(guest, sys.executable, "-c", code) == "mine\nhello there\n"


def test_torch_keeps_its_own_loader_and_spec(guest: Path) -> None:
    code = "import torch; from importlib.machinery import SourceFileLoader as L; "
    code += "assert type(torch.__loader__) is L and type(torch.__spec__.loader) is L"
    _run(guest, sys.executable, "-c", code)
