"""`finepoint profile` on whole scripts, unchanged."""

from __future__ import annotations

import json
import os
import signal
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


def test_names_that_are_no_utf_8_are_run_judged_and_shown(tmp_path: Path) -> None:
    script, folder = os.fsdecode(b"caf\xe9.py"), os.fsdecode(b"job\xe9")
    (tmp_path / script).write_text("import sys, torch\nprint(ascii(sys.argv[1]))\nsys.exit(3)\n")
    answer = finepoint("run", script, "--job", folder, "--", os.fsdecode(b"\xff\xfe"), cwd=tmp_path)
    assert (answer.returncode, "Traceback" in answer.stderr) == (3, False), answer.stderr
    assert "'\\udcff\\udcfe'" in answer.stdout
    assert (tmp_path / folder / "rule-output/ProfilerReport/profiler-output/profiler-report.html").is_file()
    assert json.loads((tmp_path / folder / "job.json").read_bytes())["command"][1] == script
    shown = finepoint("show", folder, "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["job"] == folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "touch.py", "--price-per-hour", "nan"], "price-per-hour is nan"),
        (["run", "touch.py", "--price-per-hour", "-1"], "price-per-hour is -1"),
        (["show", ".", "--price-per-hour", "inf"], "price-per-hour is inf"),
        (["pid", "1", "--price-per-hour", "nan"], "price-per-hour is nan"),
        (["run", "touch.py", "--job", "touch.py/x"], "--job: the folder touch.py/x"),
        (["run", "touch.py", "--job", "/proc/foo/x"], "--job: the folder /proc/foo/x"),
        (["pid", "--job", "j", "--", "-5"], "the process is -5"),
        (["pid", str(os.getpid()), "--job", "j", "--seconds", "nan"], "seconds is nan"),
        (["export", "nix", "--to", "out"], "no folder nix"),
    ],
)
def test_mistakes_get_a_sentence_and_exit_code_2_before_anything_runs(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "touch.py").write_text("open('ran', 'w')")
    answer = finepoint(*arguments, cwd=tmp_path)
    assert (answer.returncode, "Traceback" in answer.stderr) == (2, False), answer.stderr
    assert words in " ".join(answer.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["touch.py"]


def test_a_job_without_torch_is_not_said_to_be_well(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text("print(1)")
    answer = finepoint("run", "tiny.py", "--job", "job", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "may not have imported torch" in answer.stderr
    assert "No steps were recorded" in answer.stdout
    assert "No rule found" not in answer.stdout
    exported = finepoint("export", "job", "--to", "tables", cwd=tmp_path)
    assert exported.returncode == 0
    assert "holds no" in exported.stderr
    refused = finepoint("live", "job", "--once", "--metrics-port", "99999", cwd=tmp_path)
    assert (refused.returncode, "metrics-port 99999" in refused.stderr) == (2, True)


def test_a_job_that_is_killed_early_leaves_the_steps_of_its_first_seconds(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(
        "import os, time, torch\nmodel = torch.nn.Linear(4, 2)\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\nbegan = time.time()\n"
        "while time.time() - began < 3:\n    time.sleep(0.05)\n    model(torch.rand(8, 4)).sum().backward()\n"
        "    optimizer.step()\nos.kill(os.getpid(), 9)\n"
    )
    answer = finepoint("run", "killed.py", "--job", "job", cwd=tmp_path)
    assert answer.returncode == 128 + signal.SIGKILL, answer.stderr
    assert "It was killed by SIGKILL." in answer.stdout
    assert "At least" in answer.stdout
    assert "Its last seconds may be missing" in answer.stdout
    assert json.loads((tmp_path / "job" / "summary.json").read_text())["profiler"]["steps"] > 5


def test_a_process_is_watched_twice_without_a_folders_name(tmp_path: Path) -> None:
    for _ in range(2):
        answer = finepoint("pid", str(os.getpid()), "--seconds", "0.3", "--interval-ms", "100", cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
    assert len(list((tmp_path / "jobs").glob(f"pid-{os.getpid()}-*"))) == 2
    assert "jobs/pid-PID-TIME" in finepoint("pid", "--help", cwd=tmp_path).stdout
