"""After a job: judge its recording, and write the rules' reports, the summary, and what the report's page shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finepoint.files import write_json
from finepoint.profiler.checking import finite, judge_aws, judge_own, write_judgements
from finepoint.profiler.plots import plots_of
from finepoint.profiler.recording import OUTPUT, ProfilerRecording, open_recording
from finepoint.profiler.rules.own_compute import TinyBatch
from finepoint.profiler.summary import check_price, summary_of
from finepoint.profiler.timeline import timeline_of
from finepoint.profiler.wording import words_of
from finepoint.results import RuleResult

SUMMARY_FILE, REPORT_FILE = "summary.json", "report.json"


@dataclass(frozen=True)
class Judged:
    """A job's recording and what was said of it.

    Args:
        summary: the `profiler` object of summary.json.
        own: what our rules say, the most promising finding first.
        folder: the job's.
    """

    recording: ProfilerRecording
    summary: dict[str, Any]
    own: list[RuleResult]
    folder: Path

    @property
    def findings(self) -> list[RuleResult]:
        """What our rules found."""
        return [result for result in self.own if result.fired]


def write_job_summary(judged: Judged) -> Path:
    """Write the `summary.json` of a script's job, whose key `profiler` holds what a run's does; return its path."""
    path = judged.folder / SUMMARY_FILE
    write_json(path, {"profiler": judged.summary})
    return path


def finish(job: Path, *, price_per_hour: float | None = None, measure_speeds: bool = True) -> Judged:
    """Judge a job's recording; leave `profiler-reports/<Rule>.json` and `profiler-output/summary.json` in its folder.

    Args:
        job: its folder.
        price_per_hour: of the machine it ran on, for its cost.
        measure_speeds: measure the network's heaviest layers on this machine, as the job computed them and in other
            formats (a few seconds, once for a network).

    Raises:
        NotFoundError: it holds no recording.
        ConfigurationError: the price is none.
    """
    check_price(price_per_hour)
    recording = open_recording(job, price_per_hour=price_per_hour)
    network = recording.network()
    if measure_speeds and network is not None and network["flops"] and not recording.speeds:
        from finepoint.profiler.speeds import speeds_of

        threads = min(int(recording.facts.get("threads") or 1), max(int(recording.cores), 1))
        batch = int((recording.loader() or {}).get("batch_size") or 0)
        larger = TinyBatch.target if batch <= TinyBatch.batch else 0
        write_json(job / OUTPUT / "speeds.json", speeds_of(network, threads=threads, batch=batch, larger=larger))
        recording = open_recording(job, price_per_hour=price_per_hour)
    aws, own = judge_aws(recording), judge_own(recording)
    summary = finite(summary_of(recording, aws, own))
    write_judgements(job, aws)
    write_json(job / OUTPUT / SUMMARY_FILE, summary)
    content = {
        "job": job.resolve().name,
        "summary": summary,
        "words": words_of(summary, own),
        "results": [result.to_json() for result in own],
        "aws": [
            {**result.to_json(), "evidence": {"RuleParameters": result.evidence["RuleParameters"]}} for result in aws
        ],
        "plots": plots_of(recording, own),
        "sampler": recording.sampler,
        **timeline_of(recording),
    }
    write_json(job / OUTPUT / REPORT_FILE, finite(content))
    return Judged(recording, summary, own, job)
