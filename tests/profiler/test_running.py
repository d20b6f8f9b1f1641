"""What the launcher refuses before the script starts, and what it says where no step was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from finepoint.errors import ConfigurationError
from finepoint.files import write_json
from finepoint.profiler.running import profile_script, why_no_steps


def test_a_folder_that_cannot_be_made_is_refused_before_the_script_runs(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigurationError, match="--job: the folder"):
        profile_script([str(script)], script / "job")
    assert not (tmp_path / "ran").exists()


def test_a_script_that_does_not_import_torch_is_not_said_to_hide_from_us(tmp_path: Path) -> None:
    assert "may not have imported torch" in why_no_steps(tmp_path)
    write_json(tmp_path / "1.json", {"pid": 1, "argv": [], "attachments": ["a:b"], "failures": {}})
    assert why_no_steps(tmp_path) == ""
    write_json(tmp_path / "2.json", {"pid": 2, "argv": [], "attachments": ["a:b"], "failures": {"a:b": "E: x"}})
    assert why_no_steps(tmp_path) == "a:b could not be attached: E: x"
