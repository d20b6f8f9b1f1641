"""`finepoint profile` on whole scripts, unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 96
    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.rand(3, 16, 16), index % 4

if __name__ == "__main__":
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    optimizer = torch.optim.Adam(model.parameters())
    loader = DataLoader(Slow(), 8, num_workers=int(sys.argv[1]))
    for epoch in range(2):
        model.train()
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for images, labels in loader:
                model(images)
        torch.save(model.state_dict(), sys.argv[2])
"""


def finepoint(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from finepoint.cli import main; main()", "profile", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    (folder / "train.py").write_text(SCRIPT)
    answer = finepoint(
        "run", "train.py", "--job", "job", "--interval-ms", "100", "--profile-steps", "3", "--json",
        "--", "0", "model.pt", cwd=folder,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    (folder / "answer.json").write_text(answer.stdout)
    (folder / "model.pt").rename(folder / "profiled.pt")  # trying changes runs the script again, which writes it anew
    return folder


def test_an_unchanged_script_has_phases_that_add_up_and_the_right_finding_first(profiled: Path) -> None:
    summary = json.loads((profiled / "answer.json").read_text())
    phases = summary["phases"]
    assert sum(phases.values()) == pytest.approx(1, abs=0.02)
    assert phases["data_wait"] > 0.1  # on a busy machine the rest takes longer, the waiting does not
    assert phases["evaluation"] > 0.1
    assert summary["steps"] == 24
    assert "DataLoaderWorkers" in [finding["rule"] for finding in summary["findings"]]
    assert summary["ending"]["kind"] == "completed"
    assert summary["startup_seconds"]["import"] > 0.2


def test_the_job_has_reports_a_trace_and_a_page(profiled: Path) -> None:
    written = json.loads((profiled / "job" / "summary.json").read_text())["profiler"]
    assert written["phases"] == json.loads((profiled / "answer.json").read_text())["phases"]
    assert all(isinstance(rule["datapoints"], int) for rule in written["rules"])
    output = profiled / "job" / "rule-output" / "ProfilerReport" / "profiler-output"
    assert len(list((output / "profiler-reports").glob("*.json"))) == 11
    assert (output / "profiler-report.html").stat().st_size > 10_000
    trace = json.loads((profiled / "job" / "profiler-output" / "trace.json").read_text())
    assert any(event.get("name", "").startswith("aten::conv2d") for event in trace["traceEvents"])


def test_changes_are_tried_from_outside(profiled: Path) -> None:
    answer = finepoint("try", "job", "--steps", "16", "--json", cwd=profiled)
    assert answer.returncode == 0, answer.stderr
    plain, *changed = json.loads(answer.stdout)
    assert (plain["name"], plain["measured"]) == ("as it is", 1.0)
    workers = next(row for row in changed if row["name"].startswith("num_workers"))
    assert workers["seconds_per_step"] > 0
    # What the dataset draws is the same whoever loads it, and so are the losses.
    assert workers["output"].startswith(("equal", "close"))


def test_a_job_is_shown_as_it_runs(profiled: Path) -> None:
    once = finepoint("live", "job", "--once", cwd=profiled)
    assert once.returncode == 0, once.stderr
    assert "processor" in once.stdout
    assert "data wait" in once.stdout
    # Without --once it ends by itself when the job has ended.
    followed = finepoint("live", "job", cwd=profiled)
    assert followed.returncode == 0, followed.stderr
    assert "It ended by itself, exit code 0." in followed.stdout


def test_a_running_process_is_watched_from_outside(tmp_path: Path) -> None:
    waiting = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        answer = finepoint(
            "pid", str(waiting.pid), "--job", "job", "--seconds", "1", "--interval-ms", "100", "--json", cwd=tmp_path
        )
    finally:
        waiting.communicate(b"\n")
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    assert 5 <= summary["datapoints"] <= 11
    assert summary["ending"] is None  # it runs still
    assert summary["peak_memory_bytes"] > 1e6
    gone = finepoint("pid", str(waiting.pid), "--job", "other", cwd=tmp_path)
    assert gone.returncode != 0
    assert f"there is no process {waiting.pid}" in gone.stderr


def test_a_script_that_fails_keeps_its_exit_code_and_its_profile(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import sys; sys.exit(3)")
    answer = finepoint("run", "bad.py", "--job", "job", cwd=tmp_path)
    assert answer.returncode == 3
    assert "no process of it imported torch" in answer.stderr
    assert json.loads((tmp_path / "job" / "profiler-output" / "summary.json").read_text())["ending"]["exit_code"] == 3


def test_a_script_with_smdebug_in_it_is_profiled_and_records_nothing(tmp_path: Path) -> None:
    (tmp_path / "hooked.py").write_text(
        "import smdebug.pytorch as smd\nimport torch\nhook = smd.Hook.create_from_json_file()\n"
        "model, loss = torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss()\n"
        "hook.register_hook(model)\nhook.register_loss(loss)\nhook.set_mode(smd.modes.TRAIN)\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for _ in range(20):\n    loss(model(torch.zeros(2, 3)), torch.tensor([0, 1])).backward()\n"
        "    optimizer.step()\n"
    )
    answer = finepoint("run", "hooked.py", "--job", "job", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "`finepoint debug run` records" in (tmp_path / "job" / "logs.txt").read_text()
    assert json.loads(answer.stdout)["steps"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hooked.py", "job"]


def test_weights_are_bit_equal_with_and_without_the_profiler(profiled: Path) -> None:
    subprocess.run([sys.executable, "train.py", "0", "plain.pt"], cwd=profiled, check=True)
    compare = (
        "import torch; a, b = (torch.load(name) for name in ('profiled.pt', 'plain.pt'));"
        "print(all(torch.equal(a[key], b[key]) for key in a))"
    )
    answer = subprocess.run([sys.executable, "-c", compare], cwd=profiled, capture_output=True, text=True, check=True)
    assert answer.stdout == "True\n"
