"""A training job as the SDK shows it, wherever it runs: waited for, stopped, described, and displayed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finepoint.engines import jobs
from finepoint.engines.debugging import read_results, saved_by_script
from finepoint.engines.local import Watcher, how_it_ended
from finepoint.engines.records import JobFolder, in_cloud
from finepoint.engines.sagemaker.training import SageMakerEngine, bring_log, recordings_of
from finepoint.engines.sagemaker.training import stop as stop_in_cloud
from finepoint.engines.spec import JobSpec
from finepoint.errors import InputError, JobError
from finepoint.files import read_json_lines
from finepoint.notebook.arguments import tell
from finepoint.notebook.display import Shown, html_table, metric_charts
from finepoint.notebook.session import Session
from finepoint.report.profiling import write_profiler_report
from finepoint.results import RuleResult


class TrainingJob:
    """A job that was started.

    Attributes:
        job_name: its name.
        folder: where everything of it lies; of a job in AWS once it has ended.
    """

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self.job_name = folder.path.name
        self.name = self.job_name

    @classmethod
    def start(cls, session: Session, spec: JobSpec, folder: JobFolder, settings: Mapping[str, Any]) -> TrainingJob:
        """Start a job on the session's engine.

        Args:
            session: of the cells.
            spec: what is run.
            folder: of the job.
            settings: of the SageMaker engine, over the session's.
        """
        if session.in_cloud:
            engine = SageMakerEngine(session.settings(**settings), session.cloud)
            engine.submit(folder.path, spec, Watcher(say=tell))
        else:
            jobs.start(folder.path, spec)
        return cls(folder)

    def describe(self) -> dict[str, Any]:
        """Return what the SDK's `describe` says of it, as far as it means something here."""
        record = jobs.state_of(self.folder)
        return {
            "TrainingJobName": self.job_name,
            "TrainingJobStatus": record["status"],
            "FailureReason": record["failure"],
            "HyperParameters": encoded(record["spec"]),
            "FinalMetricDataList": [
                {"MetricName": name, "Value": value} for name, value in record.get("metrics", {}).items()
            ],
            "TrainingStartTime": record["started_at"],
            "TrainingEndTime": record["finished_at"],
            "ModelArtifacts": {"S3ModelArtifacts": str(self.folder.model)},
            "DebugRuleEvaluationStatuses": rule_statuses(self.folder),
        }

    def wait(self, logs: bool = True) -> None:
        """Wait until it has ended, printing what it prints.

        Raises:
            JobError: it failed.
        """
        shown = Shown(self)
        try:
            if in_cloud(self.folder.path):
                self._wait_in_cloud(logs)
            else:
                for line in jobs.read_log(self.folder, follow=True) if logs else ():
                    tell(line.rstrip("\n"))
                    shown.refresh()
                jobs.wait(self.folder)
        except KeyboardInterrupt:
            tell(f"Job {self.job_name} goes on; .stop() ends it, .logs() shows it")
            raise
        shown.refresh(last=True)
        record = jobs.state_of(self.folder)
        if record.get("profiler_rules"):
            tell(f"Profile: {write_profiler_report(self.folder.path)}")
        if record["status"] == "Failed":
            code = record.get("exit_code")
            how = "" if code is None else f" ({how_it_ended(code)})"
            raise JobError(f"job {self.job_name} failed{how}. {record['failure']}")
        tell(f"Job {self.job_name}: {record['status']}. {record['failure']}".rstrip())

    def logs(self) -> None:
        """Print what it printed so far."""
        if in_cloud(self.folder.path):
            bring_log(self.folder.path)
        for line in jobs.read_log(self.folder):
            tell(line.rstrip("\n"))

    def stop(self) -> None:
        """End it."""
        if in_cloud(self.folder.path):
            engine = SageMakerEngine.of(self.folder.path)
            stop_in_cloud(engine.cloud, self.folder.path)
        else:
            jobs.stop(self.folder)

    def rule_job_summary(self) -> list[dict[str, Any]]:
        """Return what the rules say of it; `Error` and `NotApplicable` are no pass."""
        return rule_statuses(self.folder)

    def debug_output(self) -> str:
        """Where its recording is: a folder, or of a job that runs in AWS an address that it arrives at."""
        if in_cloud(self.folder.path) and jobs.state_of(self.folder)["status"] == "InProgress":
            return f"{recordings_of(self.folder.path)[0]}/debug-output"
        return str(saved_by_script(self.folder.path))

    def _wait_in_cloud(self, logs: bool) -> None:
        record = self.folder.read()
        if record["status"] != "InProgress":
            return
        watcher = Watcher(say=tell)
        if logs:
            watcher.on_line = lambda host, line: tell(line.rstrip("\n"))
        engine = SageMakerEngine.of(self.folder.path)
        try:
            engine.collect(self.folder.path, self.folder.spec(), watcher, stopping=False)
        except JobError:
            return  # the record says so

    def _repr_html_(self) -> str:
        record = jobs.state_of(self.folder)
        state = {"job": self.job_name, "status": record["status"], "seconds": record.get("seconds")}
        parts = [html_table([{**state, **record.get("metrics", {})}])]
        if rules := rule_statuses(self.folder):
            names = {"RuleConfigurationName": "rule", "RuleEvaluationStatus": "status", "StatusDetails": "details"}
            parts.append(html_table([{names[key]: rule[key] for key in names} for rule in rules]))
        return "".join([*parts, *metric_charts(readings(self.folder))])


def readings(folder: JobFolder) -> list[Mapping[str, Any]]:
    """Return the metrics that were read of a job so far, `{"name", "value", "at"}` each."""
    try:
        return list(read_json_lines(folder.metrics))
    except InputError:
        return []  # none yet, or half a line of a job that runs


def encoded(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return a job's hyperparameters as `hyperparameters.json` has them in SageMaker, the platform's own included."""
    own = {"sagemaker_program": spec["entry_point"], "sagemaker_job_name": spec["name"]}
    return {name: json.dumps(value) for name, value in {**spec["hyperparameters"], **own}.items()}


def rule_statuses(folder: JobFolder) -> list[dict[str, Any]]:
    """Return the SDK's summary of a job's rules."""
    record = jobs.state_of(folder)
    configuration = record["spec"].get("debugger") or {}
    results = {result["rule"]: RuleResult(**result) for result in read_results(folder.path)}
    summary = []
    for name in results or configuration.get("rules") or {}:
        result = results.get(name)
        summary.append(
            {
                "RuleConfigurationName": name,
                "RuleEvaluationStatus": result.status if result else "InProgress",
                "StatusDetails": (result.meaning or result.reason) if result else "",
                "LastModifiedTime": record["finished_at"],
            }
        )
    if record["spec"].get("profiler") is not None:
        summary.append(_profiler_status(record))
    return summary


def _profiler_status(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of the profiler's report, which notebooks look up to find its page."""
    judged = record.get("profiler_rules") or {}
    fired = [name for name, status in judged.items() if status == "IssuesFound"]
    ended = "IssuesFound" if fired else "NoIssuesFound" if judged else "Error"
    return {
        "RuleConfigurationName": "ProfilerReport",
        "RuleEvaluationStatus": "InProgress" if record["status"] == "InProgress" else ended,
        "StatusDetails": ", ".join(fired),
        "LastModifiedTime": record["finished_at"],
    }
