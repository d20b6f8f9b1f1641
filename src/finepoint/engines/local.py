"""The local engine: a job is one process a host in its own folder, watched by the one supervisor that sees it end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from finepoint.engines.binding import check_literals, launch, why_not_bindable
from finepoint.engines.channels import on_this_machine
from finepoint.engines.checkpoints import KeptCheckpoints, is_remote
from finepoint.engines.container import PORT, Host, gather, hosts_of, lay_out, script_command, variables
from finepoint.engines.debugging import debug_environment, judge_job, judged_live
from finepoint.engines.encoding import OBJECTIVE
from finepoint.engines.environments import python_for
from finepoint.engines.metrics import explain_missing
from finepoint.engines.profiling import Sampling, judge_profile, profiled_environment
from finepoint.engines.records import JobFolder
from finepoint.engines.spec import JobResult, JobSpec, JobStatus
from finepoint.engines.supervisor import HostProcess, Outcome, Supervisor
from finepoint.errors import ConfigurationError, InputError, JobError
from finepoint.events import parse
from finepoint.files import write_bytes
from finepoint.models.made_here import remember
from finepoint.models.package import pack
from finepoint.stores import store_of

_TAIL_LINES = 40
_LOG_LINES = 2000
INTERRUPTED = "interrupted"
STOPPED = "stopped on request"


@dataclass
class Watcher:
    """Whoever watches a job; every callable may be left out.

    Args:
        on_event: called with each event that a module of finepoint's emits.
        on_line: called with host and line of what a script prints.
        on_metrics: called with the values that a line of the log held, by name; what it returns, if it is not "",
            is the reason to stop the job.
        say: called with a line about what is being done.
        on_start: called with the supervisor as soon as it can be stopped.
    """

    on_event: Callable[[dict[str, Any]], None] = lambda event: None
    on_line: Callable[[str, str], None] = lambda host, line: None
    on_metrics: Callable[[Mapping[str, float]], str] = lambda values: ""
    say: Callable[[str], None] = lambda text: None
    on_start: Callable[[Supervisor], None] = lambda supervisor: None


def run_job(folder: Path, spec: JobSpec, watcher: Watcher | None = None) -> JobResult:
    """Run a job to its end and return what became of it; raise where that is a failure.

    Raises:
        InputError: a module of finepoint's says (exit code 2) that what it was given cannot be used.
        JobError: it failed otherwise; the message has its last words.
        ConfigurationError: what the spec asks for is not to be had here, or another process is running this job.
        KeyboardInterrupt: it was stopped by an interrupt (Ctrl-C).
    """
    result = execute(folder, spec, watcher)
    if result.status == "Stopped" and result.failure == INTERRUPTED:
        raise KeyboardInterrupt
    if result.exit_code == 2 and not spec.is_script:
        raise InputError(result.failure)
    if result.status == "Failed":
        raise JobError(f"job {spec.name} failed ({how_it_ended(result.exit_code)}). {result.failure}")
    return result


def execute(folder: Path, spec: JobSpec, watcher: Watcher | None = None) -> JobResult:
    """Run a job to its end and return what became of it; `job.json` in its folder says so too.

    The processes find the container contract, their output goes to `logs.txt`, and where they fail the last words are
    in `output/failure`. An interrupt (Ctrl-C) is passed on, and the job ends as `Stopped`.

    Args:
        folder: the job's; what is there (checkpoints) is gone on from.
        spec: what to run.
        watcher: is told what happens.

    Raises:
        ConfigurationError: what the spec asks for is not to be had here, or another process is running this job.
    """
    _check_possible(spec)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigurationError(f"{folder} is being worked on by another process; wait for it, or stop it") from None
    with lock:
        return _Run(JobFolder(folder.resolve()), spec, watcher or Watcher()).run()


def how_it_ended(code: int) -> str:
    """Return an exit code in words.

    >>> how_it_ended(-9)
    'killed by SIGKILL, which is how a system out of memory ends a process'
    """
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (", which is how a system out of memory ends a process" if code == -9 else "")


def _check_possible(spec: JobSpec) -> None:
    mistakes = [
        f"channel {name}: {channel.location} cannot be read here; give a folder, or an s3:// address"
        for name, channel in spec.channels.items()
        if "://" in channel.location.removeprefix("file://") and store_of(channel.location) is None
    ]
    mistakes += [
        f"channel {name}: Pipe input is for AWS; give File or FastFile here"
        for name, channel in spec.channels.items()
        if channel.input_mode == "Pipe"
    ]
    if is_remote(spec.checkpoint_location) and store_of(spec.checkpoint_location) is None:
        mistakes.append(
            f"checkpoint_location {spec.checkpoint_location} cannot be written here; give a folder, or an s3:// address"
        )
    if mistakes:
        raise ConfigurationError(mistakes)
    if spec.is_script and why_not_bindable():
        check_literals(spec)


@dataclass
class _Run:
    """One run of a job in its folder."""

    folder: JobFolder
    spec: JobSpec
    watcher: Watcher
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))
    latest: dict[str, float] = field(default_factory=dict)
    log: TextIO = field(init=False)
    readings: TextIO = field(init=False)
    supervisor: Supervisor = field(init=False)
    checkpoints: KeptCheckpoints = field(init=False)

    def run(self) -> JobResult:
        spec, folder, begin = self.spec, self.folder, time.perf_counter()
        binds = spec.is_script and not why_not_bindable()
        several = spec.resources.instance_count > 1
        hosts = hosts_of(folder.path, spec, named=binds or not several, port=_free_port() if several else PORT)
        folder.begin(spec)
        self.checkpoints = KeptCheckpoints(folder.path, spec.checkpoint_location, self.watcher.say)
        try:
            processes = self._prepare(hosts, binds)
        except (KeyboardInterrupt, SystemExit) as error:
            folder.finish("Stopped", failure=STOPPED if isinstance(error, SystemExit) else INTERRUPTED)
            raise
        except BaseException as error:
            folder.finish("Failed", failure=str(error))
            raise
        with (
            folder.logs.open("a", encoding="utf-8") as self.log,
            folder.metrics.open("w", encoding="utf-8") as self.readings,
            Sampling(folder.path, spec.profiler, self.watcher.say) as sampling,
        ):
            self.supervisor = Supervisor(
                processes,
                max_run_seconds=spec.limits.max_run_seconds,
                grace_seconds=spec.limits.stop_grace_seconds,
                on_line=self._take_line,
                on_started=sampling.begin,
            )
            self.watcher.on_start(self.supervisor)
            judged = judged_live(folder.path, spec.debugger, self.watcher.say, self.supervisor.stop)
            with judged, self.checkpoints.sending():
                outcome = self.supervisor.run()
            sampling.end(outcome.exit_codes[hosts[0].name])
        return self._finish(hosts, outcome, time.perf_counter() - begin)

    def _prepare(self, hosts: list[Host], binds: bool) -> list[HostProcess]:
        spec = on_this_machine(self.spec, self.folder.path / "input" / "manifests", self.watcher.say)
        names = self.folder.path / "input" / "hosts"
        for host in hosts:
            lay_out(host, spec)
        self.checkpoints.bring()
        if not spec.is_script:
            command = launch([sys.executable, "-m", spec.module], supervisor=str(os.getpid()))
            return [HostProcess(hosts[0].name, command, self.folder.path, variables(hosts[0], spec))]
        if binds:
            before = Path("/etc/hosts").read_text() if Path("/etc/hosts").is_file() else ""
            write_bytes(names, f"{before.rstrip()}\n127.0.0.1 {' '.join(hosts[0].names)}\n".encode())
        offline = spec.requirements == "offline"
        python = python_for(hosts[0].code, spec.entry_point, offline=offline, say=self.watcher.say)
        processes = []
        for host in hosts:
            bound = {"folder": str(host.folder), "hosts": str(names)} if binds else {}
            command = launch(script_command(host, spec, python), supervisor=str(os.getpid()), **bound)
            environment = debug_environment(variables(host, spec, python), host.folder, spec.debugger)
            environment = profiled_environment(environment, host.folder, spec.profiler)
            processes.append(HostProcess(host.name, command, host.code, environment))
        return processes

    def _take_line(self, host: str, line: str) -> None:
        event = None if self.spec.is_script else parse(line)
        if event is not None:
            self.watcher.on_event(event)
            return
        text = line.rstrip("\n")
        self.tail.append(text)
        self.lines.append(text)
        shown = f"[{host}] {line}" if self.spec.resources.instance_count > 1 else line
        self.log.write(shown if shown.endswith("\n") else shown + "\n")
        self.log.flush()
        self.watcher.on_line(host, line)
        found = {metric.name: values for metric in self.spec.metric_definitions if (values := metric.values(text))}
        for name, values in found.items():
            for value in values:
                self.readings.write(json.dumps({"name": name, "value": value, "at": round(time.time(), 3)}) + "\n")
            self.latest[name] = values[-1]
        if found:
            self.readings.flush()
            reason = self.watcher.on_metrics({name: values[-1] for name, values in found.items()})
            if reason:
                self.supervisor.stop(reason)

    def _finish(self, hosts: list[Host], outcome: Outcome, seconds: float) -> JobResult:
        clashes = gather(hosts) if self.spec.is_script else []
        if clashes:
            self.watcher.say(f"Kept the first host's files where others wrote the same: {', '.join(clashes[:5])}")
        failed = outcome.first_failure
        code = outcome.exit_codes[failed or hosts[0].name]
        status: JobStatus = "Stopped" if outcome.stopped else "Failed" if failed else "Completed"
        failure = _last_words(self.tail, self.folder) if status == "Failed" else outcome.stopped
        if status == "Failed":
            write_bytes(self.folder.failure, self._failure_text(code, failure).encode())
        elif self.spec.is_script:
            if status == "Completed":
                write_bytes(self.folder.path / "output" / "success", b"")
            if any((self.folder.path / "model").iterdir()):
                digest = pack(self.folder.path / "model", self.folder.model)
                remember(digest, f"job {self.folder.path.name}")
        # What its study asks for is explained by the study.
        known = {*self.latest, self.spec.hyperparameters.get(OBJECTIVE)}
        missing = [metric for metric in self.spec.metric_definitions if metric.name not in known]
        for metric in missing if status == "Completed" else ():
            self.watcher.say(f"warning: {explain_missing(metric, self.lines)}")
        rules: dict[str, dict[str, str]] = {"rules": {}, "profiler_rules": {}}
        try:
            self.checkpoints.end()
            judged = judge_job(self.folder.path, self.spec.debugger, self.watcher.say)
            rules["rules"] = {result.rule: result.status for result in judged}
            rules["profiler_rules"] = judge_profile(self.folder.path, self.spec.profiler, self.watcher.say)
        finally:  # an impatient Ctrl-C changes nothing of what became of the job
            self.folder.finish(
                status,
                **rules,
                exit_code=code,
                exit_codes=dict(outcome.exit_codes),
                failure=failure,
                metrics=self.latest,
                seconds=round(seconds, 3),
            )
        return JobResult(status, code, self.folder.path, failure, seconds, dict(self.latest))

    def _failure_text(self, code: int, words: str) -> str:
        """Return what `output/failure` says, in the form of SageMaker's toolkit."""
        if not self.spec.is_script:
            return words
        return f'ExecuteUserScriptError:\nExitCode {code}\nErrorMessage "{words}"\nCommand "{self.spec.entry_point}"'


def _last_words(tail: deque[str], folder: JobFolder) -> str:
    lines = [line for line in tail if line.strip()]
    for place in range(len(lines) - 1, -1, -1):
        if lines[place].startswith("error: "):
            return "\n".join(lines[place:]).removeprefix("error: ")
    words = "\n".join(lines[-15:]) or "It printed nothing."
    return f"Its log is {folder.logs}; it ends:\n{words}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
