from __future__ import annotations

from pathlib import Path

import pytest

from finepoint.engines.debugging import debugger_configuration, judge_job
from finepoint.engines.profiling import judge_profile, profiler_configuration
from finepoint.engines.recorded import STOPPED, run

pytestmark = pytest.mark.slow
SCRIPT = """
import sys, torch
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(12):
    loss = torch.nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(0, 2, (8,)))
    optimizer.zero_grad(); loss.backward(); optimizer.step()
sys.exit(int(sys.argv[1]))
"""


ENDLESS = """
import itertools, torch
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in itertools.count():
    loss = torch.nn.functional.cross_entropy(model(torch.full((8, 4), float("nan"))), torch.randint(0, 2, (8,)))
    optimizer.zero_grad(); loss.backward(); optimizer.step()
"""


def test_a_rule_ends_a_script_that_would_go_on_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(ENDLESS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    debugger = debugger_configuration(rules={"NotANumber": {}}, stop_on=["NotANumber"])
    assert run({"entry_point": "train.py", "debugger": debugger, "profiler": None}, [], tmp_path / "kept") == 0
    assert (tmp_path / "kept" / STOPPED).read_text() == "the rule NotANumber fired"


def test_a_script_is_recorded_where_it_is_told_and_its_exit_code_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path / "code")
    monkeypatch.setattr("signal.signal", lambda number, handler: None)  # the test's own process keeps its handlers
    debugger, profiler = debugger_configuration(), profiler_configuration(interval_ms=100)
    configuration = {"entry_point": "train.py", "debugger": debugger, "profiler": profiler}
    folder = tmp_path / "checkpoints"
    assert run(configuration, ["3"], folder) == 3
    said: list[str] = []
    assert any(result.status == "NoIssuesFound" for result in judge_job(folder, debugger, said.append))
    assert judge_profile(folder, profiler, said.append)
    assert not [line for line in said if "nothing" in line]
