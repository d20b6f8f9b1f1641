"""Launching: run a training script, unchanged, with the debugger attached, and judge what it recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from finepoint.attaching import environment_for, why_not_attached
from finepoint.debugger.agreement import BUDGET_VARIABLE, FOLDER_VARIABLE, NAME
from finepoint.debugger.budget import BUDGET
from finepoint.debugger.hook_file import VARIABLE
from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.actions import Action, StopTraining, terminate
from finepoint.debugger.rules.base import find_rule
from finepoint.debugger.rules.checking import Parameters, check_recording, choose_rules
from finepoint.debugger.rules.live import LiveJudge
from finepoint.debugger.rules.result import RuleResult
from finepoint.errors import ConfigurationError, InputError, NotFoundError
from finepoint.files import write_json
from finepoint.models.building import versions

# Between SIGTERM and SIGKILL, as SageMaker gives a training job.
_GRACE_SECONDS = 120.0


@dataclass(frozen=True)
class DebugJob:
    """A script to run under the debugger.

    Args:
        script: a Python file.
        arguments: its own.
        folder: of the job: `job.json`, `logs.txt`, `debug-output/`, `rule-output/`.
        python: the interpreter; finepoint must be installed in its environment.
        hook_config: a `debughookconfig.json` for scripts that use smdebug's hook; by default one with its defaults.
        budget: share of the job's time that recording may take.
        stop_on: names of rules that end the job when they fire.
        actions: by rule's name, what else is done when it fires.
        parameters: by rule's name.
    """

    script: Path
    arguments: Sequence[str]
    folder: Path
    python: str = sys.executable
    hook_config: Path | None = None
    budget: float = BUDGET
    stop_on: Sequence[str] = ()
    actions: Mapping[str, Sequence[Action]] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class DebugResult:
    """What became of it.

    Args:
        exit_code: of the script; negative for a signal.
        status: `Completed`, `Failed` or `Stopped`.
        results: of the rules; empty where nothing was recorded.
        stopped_by: the rule that ended the job, if one did.
        unseen: why nothing was recorded, or what the recording says was not seen.
        overhead_fraction: of the job's time; None where nothing was recorded.
    """

    exit_code: int
    status: str
    results: list[RuleResult]
    stopped_by: str | None
    unseen: list[str]
    overhead_fraction: float | None


def run_script(job: DebugJob, out: IO[str] | None = None) -> DebugResult:
    """Run a script with the debugger attached; what it prints goes to `out` and to `logs.txt`.

    Raises:
        ConfigurationError: the script, the folder or a rule's name is wrong; all mistakes are told.
    """
    _check(job)
    for name in ("debug-output", "input/config", "rule-output"):
        (job.folder / name).mkdir(parents=True, exist_ok=True)
    environment = _environment(job)
    started = _now()
    _write_record(job, "InProgress", started, None)
    stopped: list[str] = []
    command = [job.python, str(job.script), *job.arguments]
    with (
        (job.folder / "logs.txt").open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process,
        _judged_live(job, process.pid, stopped),
    ):
        interrupted = _follow(process, [log, *([out] if out is not None else [])])
    status = "Stopped" if interrupted or stopped else "Completed" if process.returncode == 0 else "Failed"
    _write_record(job, status, started, process.returncode)
    return _judge(job, process.returncode, status, stopped[0] if stopped else None)


def _check(job: DebugJob) -> None:
    mistakes = []
    if not job.script.is_file():
        mistakes.append(f"{job.script} is not a file; give the path of a Python script")
    if any((job.folder / "debug-output").glob("rank*")):
        mistakes.append(f"{job.folder} holds a recording already; choose another --job folder, or remove it")
    if job.hook_config is not None and not job.hook_config.is_file():
        mistakes.append(f"{job.hook_config} is not a file")
    for name in (*job.stop_on, *job.actions):
        try:
            find_rule(name)
        except ConfigurationError as error:
            mistakes += error.mistakes
    try:
        choose_rules(None, job.parameters)
    except ConfigurationError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigurationError(mistakes)


def _environment(job: DebugJob) -> dict[str, str]:
    output = job.folder.absolute() / "debug-output"
    hook_file = job.folder.absolute() / "input" / "config" / "debughookconfig.json"
    given: dict[str, Any] = {}
    if job.hook_config is not None:
        try:
            given = json.loads(job.hook_config.read_bytes())
        except ValueError as error:
            raise InputError(f"{job.hook_config} is not valid JSON: {error}") from error
    # What the script's own hook saves lies beside what was recorded from outside.
    write_json(hook_file, {**given, "LocalPath": str(output / "tensors")})
    settings = {
        FOLDER_VARIABLE: str(output),
        BUDGET_VARIABLE: str(job.budget),
        VARIABLE: str(hook_file),
        "PYTHONUNBUFFERED": "1",
    }
    return environment_for([NAME], job.folder / "debug-output" / "attached", settings)


@contextmanager
def _judged_live(job: DebugJob, pid: int, stopped: list[str]) -> Any:
    """Have the rules that are to act follow the job from a thread."""
    acting = list(dict.fromkeys(find_rule(name).__name__ for name in (*job.stop_on, *job.actions)))
    if not acting:
        yield
        return

    end = terminate(pid)
    stop = StopTraining(end)
    stopping = {find_rule(name).__name__ for name in job.stop_on}
    given = {find_rule(name).__name__: list(actions) for name, actions in job.actions.items()}
    actions = {name: [*given.get(name, ()), *([stop] if name in stopping else ())] for name in acting}
    parameters = {name: values for name, values in job.parameters.items() if find_rule(name).__name__ in acting}

    def note(result: RuleResult) -> None:
        if result.rule in stopping:
            stopped.append(result.rule)

    judge = LiveJudge(job.folder / "debug-output", choose_rules(acting, parameters), actions, note)
    try:
        with judge.following():
            yield
    finally:
        for failure in judge.failures:
            sys.stderr.write(f"finepoint: {failure}\n")


def _follow(process: subprocess.Popen[str], sinks: Sequence[IO[str]]) -> bool:
    """Pass a process's lines on until it ends; return whether it was interrupted."""
    assert process.stdout is not None
    interrupted = False
    try:
        for line in process.stdout:
            for sink in sinks:
                sink.write(line)
                sink.flush()
        process.wait()
    except KeyboardInterrupt:
        interrupted = True
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return interrupted


def _judge(job: DebugJob, exit_code: int, status: str, stopped_by: str | None) -> DebugResult:
    output = job.folder / "debug-output"
    try:
        recording = Recording.open(output)
    except NotFoundError:
        reason = why_not_attached(output / "attached") or "the script called no model with parameters"
        return DebugResult(exit_code, status, [], stopped_by, [f"nothing was recorded: {reason}"], None)
    results = check_recording(recording, None, job.parameters)
    write_json(job.folder / "rule-output" / "debugger.json", [result.to_json() for result in results])
    costs = [fact["fraction"] for fact in recording.facts("overhead")]
    unseen = [*recording.notes, *filter(None, [why_not_attached(output / "attached")])]
    return DebugResult(exit_code, status, results, stopped_by, unseen, costs[-1] if costs else None)


def _write_record(job: DebugJob, status: str, started: str, exit_code: int | None) -> None:
    write_json(
        job.folder / "job.json",
        {
            "schema_version": 1,
            "spec": {
                "name": job.folder.name,
                "script": str(job.script.absolute()),
                "arguments": list(job.arguments),
                "python": job.python,
                "budget": job.budget,
            },
            "status": status,
            "exit_code": exit_code,
            "started_at": started,
            "finished_at": None if status == "InProgress" else _now(),
            "pid": os.getpid(),
            "versions": versions(),
        },
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
