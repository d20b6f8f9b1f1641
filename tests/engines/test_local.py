from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.engines.conftest import SCRIPTS

from finepoint.engines import binding
from finepoint.engines.jobs import start, wait
from finepoint.engines.local import Watcher, execute, run_job
from finepoint.engines.metrics import MetricDefinition
from finepoint.engines.spec import Channel, JobSpec, Limits, Resources
from finepoint.errors import ConfigurationError, JobError

bindable = pytest.mark.skipif(
    bool(binding.why_not_bindable()), reason=f"/opt/ml cannot be bound here: {binding.why_not_bindable()}"
)


def script(tmp_path: Path, text: str, name: str = "train.py", **fields: Any) -> JobSpec:
    """Write a script and return the spec of a job that runs it."""
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / name).write_text(text)
    return JobSpec("job", entry_point=name, source_dir=str(source), **fields)


def fixture(style: str, entry_point: str, **fields: Any) -> JobSpec:
    return JobSpec("job", entry_point=entry_point, source_dir=str(SCRIPTS / style), **fields)


def log_of(folder: Path) -> str:
    return (folder / "logs.txt").read_text()


def test_a_job_spec_reads_back_as_it_was_written(tmp_path: Path) -> None:
    spec = script(
        tmp_path,
        "",
        hyperparameters={"lr": 0.1, "names": ["a"]},
        channels={"train": Channel(str(tmp_path), "FastFile")},
        resources=Resources(2, cpus=1),
        limits=Limits(10.0, 1.0),
        metric_definitions=(MetricDefinition("loss", "loss: ([0-9.]+)"),),
        tags={"of": "a test"},
    )
    assert JobSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_secrets_are_in_no_record_and_reach_the_job_also_from_another_process(tmp_path: Path) -> None:
    text = "import os; print(os.environ['HF_TOKEN'][::-1], os.environ['DEBUG'])"
    job = start(tmp_path / "job", script(tmp_path, text, environment={"HF_TOKEN": "hidden-0", "DEBUG": "1"}))
    assert wait(job)["status"] == "Completed"
    assert log_of(job.path) == "0-neddih 1\n"
    assert job.read()["spec"]["environment"] == {"HF_TOKEN": "(secret)", "DEBUG": "1"}
    assert job.spec().environment["HF_TOKEN"] == "hidden-0"
    files = [path for path in job.path.rglob("*") if path.is_file()]
    assert [path.name for path in files if b"hidden-0" in path.read_bytes()] == ["secrets.json"]
    assert {(job.path / name).stat().st_mode & 0o777 for name in ("job.json", "secrets.json")} == {0o600}
    execute(job.path, script(tmp_path, ""))
    assert not (job.path / "secrets.json").exists()


def test_all_mistakes_of_a_spec_are_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        JobSpec(
            "no name!",
            entry_point="nix.py",
            source_dir=str(tmp_path),
            channels={"train": Channel(str(tmp_path / "nix")), "a b": Channel(str(tmp_path))},
            hyperparameters={"f": float, "x": "\0"},
            resources=Resources(0),
            limits=Limits(-1),
            metric_definitions=(MetricDefinition("loss", "loss: (["), MetricDefinition("other", "other")),
        )
    text = str(caught.value)
    words = ["no name!", "nix.py", "channel train", "'a b'", "hyperparameter f", "NUL", "instance_count", "max_run"]
    for word in [*words, "no regular expression", "has no group"]:
        assert word in text
    assert len(caught.value.mistakes) == 10


@pytest.mark.parametrize("name", ["../train.py", "/bin/sh", "-c", "a b.py", "sub/../train.py"])
def test_an_entry_point_outside_of_the_source_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.py").touch()
    with pytest.raises(ConfigurationError, match="inside source_dir"):
        JobSpec("job", entry_point=name, source_dir=str(tmp_path))


@bindable
def test_booleans_arrive_with_a_value_and_checkpoints_are_kept(tmp_path: Path) -> None:
    spec = fixture(
        "booleans",
        "run.py",
        hyperparameters={"do_train": True, "do_eval": True, "output_dir": "/opt/ml/model/out"},
        metric_definitions=(MetricDefinition("eval_loss", "eval_loss = ([0-9.]+)"),),
    )
    for times in (1, 2):
        result = run_job(tmp_path / "job", spec)
        assert (tmp_path / "job" / "checkpoints" / "state.txt").read_text() == "started\n" * times
    assert result.metrics == {"eval_loss": 0.125}
    with tarfile.open(tmp_path / "job" / "output" / "model.tar.gz") as archive:
        assert archive.getnames() == ["out/trained.json"]
    assert not Path("/opt/ml").exists()  # nothing of it shows outside


def test_a_shell_script_gets_its_arguments_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a\nb\n")
    spec = fixture(
        "shell",
        "train.sh",
        hyperparameters={"greeting": "it's; $(me)", "a": 1},
        channels={"train": Channel(str(tmp_path / "lines.txt"))},
    )
    run_job(tmp_path / "job", spec)
    assert log_of(tmp_path / "job") == "arguments: 4 first: -a value: 1\ngreeting: it's; $(me)\n"
    assert (tmp_path / "job" / "model" / "count.txt").read_text().strip() == "2"


@bindable
def test_a_script_may_read_everything_from_variables_and_files(tmp_path: Path) -> None:
    spec = fixture("reader", "main.py", hyperparameters={"layers": [1, 2]}, channels={"train": Channel(str(tmp_path))})
    run_job(tmp_path / "job", spec)
    output = tmp_path / "job" / "output" / "data"
    result = json.loads((output / "result.json").read_text())
    assert result == {
        "layers": [1, 2],
        "channels": {"train": str(tmp_path / "job" / "input" / "data" / "train")},
        "host": "algo-1",
    }
    assert json.loads((output / "literal.txt").read_text())["hosts"] == ["algo-1"]


@bindable
@pytest.mark.parametrize("distribution", ["", "torch_distributed"])
def test_each_host_is_a_process_and_they_find_each_other_by_name(tmp_path: Path, distribution: str) -> None:
    seen: list[tuple[str, str]] = []
    spec = fixture("gloo", "dist_train.py", resources=Resources(2), distribution=distribution)
    run_job(tmp_path / "job", spec, Watcher(on_line=lambda host, line: seen.append((host, line))))
    lines = log_of(tmp_path / "job").splitlines()
    for number in (1, 2):
        assert f"[algo-{number}] host algo-{number} rank {number - 1} of 2 total 3" in lines
    assert {host for host, _ in seen} == {"algo-1", "algo-2"}
    assert (tmp_path / "job" / "model" / "total.txt").read_text() == "3"
    assert (tmp_path / "job" / "output" / "data" / "algo-2.txt").read_text() == "seen"


def test_a_job_that_is_run_again_begins_with_an_empty_model_and_unrecorded(tmp_path: Path) -> None:
    text = "import os, pathlib\nfolder = pathlib.Path(os.environ['SM_MODEL_DIR'])\nprint(os.listdir(folder))\n"
    spec = script(tmp_path, f"{text}(folder / 'weights').touch()")
    for _ in range(2):
        run_job(tmp_path / "job", spec)
        recorded = [tmp_path / "job" / name for name in ("debug-output", "profiler-output", "rule-output")]
        assert not any(path.exists() for path in recorded)
        for path in recorded:
            path.mkdir()
    assert log_of(tmp_path / "job") == "[]\n[]\n"


def test_where_one_host_fails_the_others_are_stopped(tmp_path: Path) -> None:
    text = (
        "import os, sys, threading\nif os.environ['SM_CURRENT_HOST'] == 'algo-2': sys.exit(7)\nthreading.Event().wait()"
    )
    result = execute(tmp_path / "job", script(tmp_path, text, resources=Resources(2)))
    assert (result.status, result.exit_code) == ("Failed", 7)
    record = json.loads((tmp_path / "job" / "job.json").read_text())
    assert record["exit_codes"] == {"algo-1": -signal.SIGTERM, "algo-2": 7}


def test_a_failure_is_told_in_words_and_in_the_file_of_the_contract(tmp_path: Path) -> None:
    spec = script(tmp_path, "raise ValueError('too small')")
    with pytest.raises(JobError, match=r"exit code 1.*\n[^$]*ValueError: too small"):
        run_job(tmp_path / "job", spec)
    failure = (tmp_path / "job" / "output" / "failure").read_text()
    assert failure.startswith("ExecuteUserScriptError:\nExitCode 1\nErrorMessage ")
    assert "ValueError: too small" in failure
    run_job(tmp_path / "job", script(tmp_path, ""))
    assert not (tmp_path / "job" / "output" / "failure").exists()
    assert (tmp_path / "job" / "output" / "success").exists()


_PATIENT = """
import signal, sys, threading
end = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), HOW))
print("ready", flush=True)
end.wait()
open(__import__("os").environ["SM_MODEL_DIR"] + "/saved", "w").close()
print("saved", flush=True)
"""


@pytest.mark.parametrize(("how", "code"), [("end.set()", 0), ("None", -signal.SIGKILL)])
def test_stop_asks_and_then_kills(tmp_path: Path, how: str, code: int) -> None:
    spec = script(tmp_path, _PATIENT.replace("HOW", how), limits=Limits(stop_grace_seconds=1.0))
    watcher = Watcher()
    watcher.on_start = lambda supervisor: setattr(watcher, "on_line", lambda _, line: stop(supervisor, line))

    def stop(supervisor: Any, line: str) -> None:
        if line == "ready\n":
            supervisor.stop("enough")

    result = execute(tmp_path / "job", spec, watcher)
    assert (result.status, result.exit_code, result.failure) == ("Stopped", code, "enough")
    assert (tmp_path / "job" / "output" / "model.tar.gz").exists() == (code == 0)


def test_a_job_is_stopped_after_max_run(tmp_path: Path) -> None:
    spec = script(tmp_path, "import threading; threading.Event().wait()", limits=Limits(0.5, 1.0))
    result = execute(tmp_path / "job", spec)
    assert (result.status, result.exit_code) == ("Stopped", -signal.SIGTERM)
    assert "max_run" in result.failure


def test_what_a_script_leaves_running_ends_with_it(tmp_path: Path) -> None:
    text = "import subprocess\nprint(subprocess.Popen(['sleep', '1000']).pid)"
    run_job(tmp_path / "job", script(tmp_path, text))
    pid = int(log_of(tmp_path / "job"))
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]


_SUPERVISOR = """
import sys
from pathlib import Path
from finepoint.engines.local import Watcher, run_job
from finepoint.engines.spec import JobSpec
run_job(Path(sys.argv[1]), JobSpec("job", entry_point="train.py", source_dir=sys.argv[2]),
        Watcher(on_line=lambda _, line: print(line, end="", flush=True)))
"""


_WAITS = "import os, threading\nprint(os.getpid(), flush=True)\nthreading.Event().wait()"
_STARTS = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', {waits!r}], start_new_session={own})"


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux a job is ended with its supervisor")
@pytest.mark.parametrize(
    "text",
    [_WAITS, _STARTS.format(waits=_WAITS, own=False), _STARTS.format(waits=_WAITS, own=True)],
    ids=["script", "child", "child in a session of its own, as torchrun's"],
)
def test_a_script_ends_with_all_that_it_started_when_its_supervisor_is_killed(tmp_path: Path, text: str) -> None:
    script(tmp_path, text)
    command = [sys.executable, "-c", _SUPERVISOR, str(tmp_path / "job"), str(tmp_path / "source")]
    supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    handle = os.pidfd_open(pid)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    import select

    assert select.select([handle], [], [], 30)[0]  # readable once the process has ended
    os.close(handle)


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux a job is ended with its supervisor")
def test_a_script_finds_no_child_that_it_did_not_start(tmp_path: Path) -> None:
    text = "import os\ntry: print(os.waitpid(-1, os.WNOHANG))\nexcept ChildProcessError: print('none')"
    run_job(tmp_path / "job", script(tmp_path, text))
    assert log_of(tmp_path / "job") == "none\n"


@pytest.mark.parametrize(("error", "reason"), [(KeyboardInterrupt, "interrupted"), (SystemExit, "stopped on request")])
def test_a_job_that_is_stopped_while_it_is_prepared_is_on_record_as_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], reason: str
) -> None:
    def asked(*given: Any, **named: Any) -> str:
        raise error

    monkeypatch.setattr("finepoint.engines.local.python_for", asked)
    with pytest.raises(error):
        execute(tmp_path / "job", script(tmp_path, ""))
    record = json.loads((tmp_path / "job" / "job.json").read_text())
    assert (record["status"], record["failure"]) == ("Stopped", reason)


def test_an_interrupt_while_a_job_is_judged_leaves_its_end_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("finepoint.engines.local.judge_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path / "job", script(tmp_path, ""))
    record = json.loads((tmp_path / "job" / "job.json").read_text())
    assert (record["status"], record["exit_code"], record["rules"]) == ("Completed", 0, {})


def test_without_source_dir_only_the_script_comes(tmp_path: Path) -> None:
    for name in ("train.py", "other.py"):
        (tmp_path / name).write_text("import os; print(os.listdir())")
    run_job(tmp_path / "job", JobSpec("job", entry_point="train.py", source_dir=str(tmp_path / "train.py")))
    assert log_of(tmp_path / "job") == "['train.py']\n"


def test_data_and_earlier_jobs_in_the_source_folder_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "train.py").write_text("import os; print(sorted(os.listdir()))")
    spec = JobSpec(
        "job", entry_point="train.py", source_dir=str(tmp_path), channels={"train": Channel(f"{tmp_path}/data")}
    )
    run_job(tmp_path / "runs" / "job", spec)
    assert log_of(tmp_path / "runs" / "job") == "['train.py']\n"


def test_a_shell_script_finds_the_python_that_has_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    run_job(tmp_path / "job", script(tmp_path, "python -c 'import sys, torch; print(sys.prefix)'", "train.sh"))
    assert log_of(tmp_path / "job") == f"{sys.prefix}\n"


def test_variables_of_an_outer_job_do_not_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_CHANNEL_OUTER", "/nix")
    run_job(tmp_path / "job", script(tmp_path, "import os; print('SM_CHANNEL_OUTER' in os.environ)"))
    assert log_of(tmp_path / "job") == "False\n"


def test_garbage_and_unfinished_lines_are_logged(tmp_path: Path) -> None:
    text = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe caf\\xc3\\xa9\\rprogress\\nno end')"
    run_job(tmp_path / "job", script(tmp_path, text))
    assert log_of(tmp_path / "job") == "\ufffd\ufffd café\nprogress\nno end\n"


def test_a_job_that_runs_is_not_run_twice(tmp_path: Path) -> None:
    spec = script(tmp_path, "print('once', flush=True); import threading; threading.Event().wait()")
    errors: list[BaseException] = []
    watcher = Watcher()

    def second() -> None:
        try:
            execute(tmp_path / "job", spec)
        except ConfigurationError as error:
            errors.append(error)

    def on_start(supervisor: Any) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        supervisor.stop("enough")

    watcher.on_start = on_start
    execute(tmp_path / "job", spec, watcher)
    assert "another process" in str(errors[0])
