"""The sampler beside a job: it sees the whole tree, outlives the job, and knows how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from finepoint.errors import ConfigurationError
from finepoint.files import read_json
from finepoint.profiler import machine, sampler
from finepoint.profiler.cgroups import ControlGroup
from finepoint.profiler.processes import ProcessReader, _LinuxProcess, _Process
from finepoint.profiler.sampler import Sampler, sample_until_end, visible_devices
from finepoint.profiler.sampling import check_interval, sampled
from finepoint.profiler.segments import Table, read_table

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="psutil is what reads here")
SPIN = "import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"


def run(folder: Path, code: str, *, interval_ms: int = 100) -> tuple[Table, dict[str, object]]:
    job = subprocess.Popen([sys.executable, "-c", code])
    with sampled(folder, job.pid, interval_ms=interval_ms) as sampler:
        sampler.ended(job.wait())
    return read_table(folder / "system"), read_json(folder / "ending.json")


def test_a_signal_is_noted_and_the_samples_before_it_are_kept(tmp_path: Path) -> None:
    table, ending = run(tmp_path, SPIN.format(seconds=1.5) + "\nimport os; os.kill(os.getpid(), 11)")
    assert (ending["kind"], ending["signal"]) == ("signal", "SIGSEGV")
    assert len(table) == ending["samples"]
    assert table["job_cpu"].max() > 0.05  # it spins, on a machine that may be busy
    assert ((table["cpu"] >= 0) & (table["cpu"] <= 1)).all()


def test_child_processes_are_seen_as_workers(tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN.format(seconds=1.5)!r}])"
    table, ending = run(tmp_path, code)
    assert ending["kind"] == "completed"
    assert table["job_processes"].max() == 2
    assert table["job_workers_cpu"].max() > 0.05
    tree = read_table(tmp_path / "processes")
    assert len(set(tree["pid"])) == 2
    assert sum(name.startswith("name/") for name in tree.notes) == 2


def test_a_child_that_lives_between_two_looks_is_the_jobs_work() -> None:
    child = "import time\nwhile time.process_time() < 0.3: pass"
    run = f"subprocess.run([sys.executable, '-c', {child!r}])"
    code = f"input(); import subprocess, sys; {run}; print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        assert job.stdin and job.stdout
        reader = ProcessReader(job.pid)
        reader.read()
        began = time.perf_counter()
        job.stdin.write(b"\n")
        job.stdin.flush()
        job.stdout.readline()
        row, _ = reader.read()
        worked = row["job_cpu"] * (time.perf_counter() - began)
        job.kill()
    assert worked >= 0.29


@LINUX
def test_what_linux_says_of_a_process_is_what_psutil_says() -> None:
    code = """
import threading
open("/proc/self/comm", "w").write(") Z 1 (")
for _ in range(2):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print(1, flush=True)
while True:
    open("/proc/self/comm").read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as job:
        assert job.stdout
        job.stdout.readline()
        process = psutil.Process(job.pid)
        portable, linux = _Process(process), _LinuxProcess(process)
        looks = [(portable.look(), linux.look(), portable.look()) for _ in range(20)]
        assert portable.alive() and linux.alive()
        job.kill()
        os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)
        assert not portable.alive() and not linux.alive()
        dead = (portable.look(), linux.look())
    for before, found, after in looks:
        assert found.counters.keys() == before.counters.keys()
        for name, value in found.counters.items():
            assert before.counters[name] - 1e-6 <= value <= after.counters[name] + 1e-6, name
        assert before.whole - 1e-6 <= found.whole <= after.whole + 1e-6
        assert found.threads == before.threads == 3
        assert 0.75 * before.rss_bytes <= found.rss_bytes <= 1.25 * after.rss_bytes
    assert looks[0][1].counters["read_chars_per_second"] > 0
    assert dead[0].rss_bytes == dead[1].rss_bytes == 0
    assert dead[0].whole == pytest.approx(dead[1].whole)


@LINUX
def test_a_process_that_took_over_the_number_of_another_is_not_read_for_it() -> None:
    with waiting_job() as job:
        reader = ProcessReader(job.pid)
        assert reader.alive()
        assert len(reader.read()[1]) == 1
        reader._main._started = reader._known[job.pid]._started = "1"
        assert not reader.alive()
        assert reader.read()[1] == []
        job.kill()
    assert reader.read()[1] == []
    with pytest.raises(psutil.NoSuchProcess):
        reader._main.look()


@LINUX
def test_what_linux_says_of_the_machine_is_what_psutil_says() -> None:
    for _ in range(10):  # a disk or an interface may come or go between two looks, and memory be freed
        wrong = differences(machine._counters_of_psutil(), machine._counters_of_proc(), machine._counters_of_psutil())
        if not wrong:
            break
    assert wrong == []


def differences(before: machine._Counters, found: machine._Counters, after: machine._Counters) -> list[str]:
    ticks = os.sysconf("SC_CLK_TCK")
    wrong = [name for name, value in before.amounts.items() if not value <= found.amounts[name] <= after.amounts[name]]
    wrong += [name for name in found.amounts.keys() - before.amounts.keys() if not name.startswith("pressure_")]
    near = 0.05 * before.levels["memory_total_bytes"]
    wrong += [name for name, value in found.levels.items() if abs(value - before.levels[name]) > near]
    for core in zip(before.cores.values(), found.cores.values(), after.cores.values(), strict=True):
        for name, low, value, high in zip(machine._SPENT, *core, strict=True):
            if not low - 1 <= value / ticks <= high + 1:  # idle cores' times may go back a little
                wrong.append(name)
    return wrong


def test_a_core_that_is_switched_on_between_two_looks_is_left_out_of_them() -> None:
    before = {"cpu0": [0] * 8, "cpu2": [10] * 8}
    now = {"cpu0": [30, 0, 0, 50, 10, 0, 0, 10], "cpu1": [500] * 8, "cpu2": [10, 10, 10, 110, 10, 10, 10, 10]}
    row = machine._core_row(before, now)
    assert row == pytest.approx({"core/0": 0.4, "core/2": 0.0, "cpu": 0.2, "cpu_iowait": 0.05, "cpu_steal": 0.05})


@LINUX
def test_a_kernel_that_counts_no_pressure_has_no_columns_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_pressure(path: str) -> str:
        if "pressure" in path:
            raise FileNotFoundError(path)
        return Path(path).read_text()

    monkeypatch.setattr(machine, "kernel_text", without_pressure)
    row = machine.MachineReader().read()
    assert "memory_used_bytes" in row
    assert not [name for name in row if "pressure" in name]


def test_the_sampler_goes_on_when_its_parent_says_nothing(tmp_path: Path) -> None:
    with waiting_job() as job:
        with sampled(tmp_path, job.pid, interval_ms=100) as sampler:
            while not (tmp_path / "sampler.json").is_file():
                os.sched_yield()
        job.kill()
        job.wait()
        sampler.wait()
    assert read_json(tmp_path / "ending.json")["kind"] == "unknown"


def test_a_job_whose_sampler_was_killed_still_says_how_it_ended(tmp_path: Path) -> None:
    with waiting_job() as job, sampled(tmp_path, job.pid) as sampler:
        os.kill(sampler.pid, signal.SIGKILL)
        job.kill()
        assert not sampler.ended(job.wait())
    assert read_json(tmp_path / "ending.json")["signal"] == "SIGKILL"


def test_a_job_that_does_nothing_for_long_is_called_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finepoint.profiler.sampler.HANG_SECONDS", 0.3)
    with waiting_job() as job:
        sampler = Sampler(tmp_path, job.pid, 100)

        def told(_: float) -> int | None:
            if sampler.hung_seconds:
                job.send_signal(signal.SIGTERM)
                return job.wait()
            return None

        code, ended = sample_until_end(sampler, told=told)
    assert (code, ended) == (-15, True)
    assert sampler.finish(code).hung_seconds >= 0.3


def test_the_work_of_being_killed_ends_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finepoint.profiler.sampler.HANG_SECONDS", 0.3)
    with waiting_job() as job:
        sampler = Sampler(tmp_path, job.pid, 100)
        while not sampler.hung_seconds:
            sampler.sample()
        job.kill()
        code = job.wait()
    monkeypatch.setattr(sampler._processes, "read", lambda: ({"job_cpu": 0.5}, []))
    sampler.sample()
    ending = sampler.finish(code)
    assert ending.hung_seconds >= 0.3
    assert "it hung" in ending.sentence


@pytest.mark.parametrize(("woken", "hangs"), [(0.0, True), (50.0, False)])
def test_what_the_machine_receives_is_the_work_of_a_job_that_is_woken_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, woken: float, hangs: bool
) -> None:
    with waiting_job() as job:
        sampler = Sampler(tmp_path, job.pid, 100)
        work = {"job_cpu": 0.0, "job_voluntary_switches_per_second": woken}
        monkeypatch.setattr(sampler._processes, "read", lambda: (work, []))
        monkeypatch.setattr(sampler._machine, "read", lambda: {"network_received_bytes_per_second": 1e6})
        began = sampler._seen_active
        sampler.sample()
        job.kill()
    assert (sampler._seen_active == began) is hangs


def waiting_job() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory", os.W_OK), reason="no writable memory control group here")
def test_a_kill_for_memory_is_told_from_other_kills(tmp_path: Path) -> None:
    group = Path("/sys/fs/cgroup/memory", f"finepoint-test-{os.getpid()}")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(64 * 2**20))
        code = "input()\nkept = []\nwhile True: kept.append(bytearray(b'x') * 2**22)"
        job = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        (group / "cgroup.procs").write_text(str(job.pid))
        with sampled(tmp_path, job.pid, interval_ms=100) as sampler:
            while not (tmp_path / "sampler.json").exists():  # it has looked at the group
                time.sleep(0.05)
            job.communicate(b"\n")
            sampler.ended(job.returncode)
    finally:
        group.rmdir()
    ending = read_json(tmp_path / "ending.json")
    assert ending["kind"] == "out of memory"
    assert "its limit of 64 MiB" in str(ending["sentence"])


def test_a_dying_job_that_is_in_the_roots_group_already_keeps_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "box"
    box.mkdir()
    (box / "memory.max").write_text(f"{64 * 2**20}\n")
    monkeypatch.setattr(sampler, "control_group_of", lambda pid: ControlGroup((box, tmp_path), (box, tmp_path)))
    with waiting_job() as job:
        sampling = Sampler(tmp_path / "out", job.pid, 100)
        monkeypatch.setattr(sampler, "control_group_of", lambda pid: ControlGroup((tmp_path,), (tmp_path,)))
        (box / "memory.events").write_text("oom_kill 1\n")
        sampling.sample()
        job.kill()
    assert "its limit of 64 MiB" in sampling.finish(-9).sentence


@pytest.mark.parametrize("interval", [99, 60_001])
def test_intervals_out_of_range_are_refused(interval: int) -> None:
    with pytest.raises(ConfigurationError, match=r"100 to 60,000 ms"):
        check_interval(interval)


def test_a_job_says_which_devices_it_was_started_with() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    for more, visible in (({"CUDA_VISIBLE_DEVICES": "1,0"}, "1,0"), ({}, None)):
        code = "print(1, flush=True); input()"  # it has the environment once it speaks
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, env=plain | more, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
            assert job.stdout
            job.stdout.readline()
            assert visible_devices(job.pid) == visible
            job.communicate(b"\n")
    assert visible_devices(job.pid) is None
