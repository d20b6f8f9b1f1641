"""The profile of a job as a page of its own, and as a section of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finepoint.errors import NotFoundError
from finepoint.files import read_json, write_bytes
from finepoint.report import timelines
from finepoint.report.templates import ASSETS, environment, page_bytes

# What `finepoint.profiler.finishing` leaves for the page, and where SageMaker's users look for the page.
CONTENT = Path("profiler-output") / "report.json"
PAGE = Path("rule-output") / "ProfilerReport" / "profiler-output" / "profiler-report.html"


def write_profiler_report(job: Path) -> Path:
    """Write `profiler-report.html` of a job and return its path.

    Args:
        job: a job's folder that `finepoint.profiler.finishing.finish` has been through.

    Raises:
        NotFoundError: it has not.
    """
    content = _content(job)
    template = _environment().get_template("profiler-report.html")
    page = template.render(**content, style=_style(), script=_script())
    write_bytes(job / PAGE, page_bytes(page))
    return job / PAGE


def has_profile(job: Path) -> bool:
    """Whether a job's or a run's folder holds a profile that was judged."""
    return (job / CONTENT).is_file()


def profiler_section(job: Path) -> Markup:
    """Return the profile of a job as HTML for a section of another page, which needs `profiler_assets` once.

    Raises:
        NotFoundError: the job has no profile.
    """
    module = _environment().get_template("profile.html").module
    return Markup(module.profile(_content(job)))  # type: ignore[attr-defined]  # noqa: S704 - made by an autoescaping template


def profiler_assets() -> tuple[str, str]:
    """Return the CSS and the JavaScript that `profiler_section` needs beside the report's own."""
    return (ASSETS / "profile.css").read_text(), (ASSETS / "profile.js").read_text()


def _environment() -> jinja2.Environment:
    made = environment()
    made.filters["seconds"] = _seconds
    made.filters["phase"] = lambda name: timelines.PHASE_NAMES.get(name, name.replace("_", " "))
    made.filters["part"] = lambda name: timelines.PART_NAMES.get(name, name)
    return made


def _style() -> str:
    return (ASSETS / "report.css").read_text() + profiler_assets()[0]


def _script() -> str:
    return (ASSETS / "report.js").read_text() + profiler_assets()[1]


def _content(job: Path) -> dict[str, Any]:
    path = job / CONTENT
    if not path.is_file():
        raise NotFoundError(f"{job} has no profile yet; `finepoint profile show {job}` makes one of its recording")
    found = read_json(path)
    seconds = found["seconds"]
    # In a run of ours, the rest is not the user's code.
    words = timelines.PHASE_NAMES | ({"other": "everything else"} if found["summary"].get("parts") else {})
    return {
        "profile": found,
        "summary": found["summary"],
        "words": found["words"],
        "findings": [
            _finding(result, found.get("plots", {})) for result in found["results"] if result["status"] == "IssuesFound"
        ],
        "passed": [result["rule"] for result in found["results"] if result["status"] == "NoIssuesFound"],
        "not_judged": [result for result in found["results"] if result["status"] in ("NotApplicable", "Error")],
        "series": timelines.series_picture(found["series"], seconds),
        "phases": timelines.phases_picture(found["phases"], seconds),
        "shown_phases": [
            (name, text) for name, text in words.items() if any(name in stretch for stretch in found["phases"])
        ],
        "cores": timelines.cores_picture(found["cores"]) if found["cores"] else None,
        "marks": timelines.time_marks(seconds),
        "durations": timelines.durations_chart(found["steps"]) if found["steps"]["counts"] else None,
        "memory": timelines.memory_chart(found["memory_window"]) if len(found["memory_window"]) > 1 else None,
        "breakdown": _breakdown(found["summary"]["phases"], words),
        "made_of": _parts(found["summary"].get("parts", []), words),
    }


def _finding(result: Mapping[str, Any], plots: Mapping[str, Any]) -> dict[str, Any]:
    evidence, plot = result["evidence"], plots.get(result["rule"])
    picture = timelines.evidence_chart(plot) if plot else None
    plain = ("share_of_time", "amdahl_bound", "predicted_speedup", "change", "also", "urgent")
    rest = {name: value for name, value in evidence.items() if name not in plain}
    return {
        **result,
        "share": evidence["share_of_time"],
        "bound": evidence["amdahl_bound"],
        "rest": rest,
        "plot": picture,
    }


def _breakdown(phases: Mapping[str, float], words: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "words": text, "share": phases[name]}
        for name, text in words.items()
        if phases.get(name, 0.0) >= 0.0005
    ]


def _parts(parts: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what a run was made of, each with its share of the longest and what it went into."""
    longest = max((part["seconds"] for part in parts), default=0.0) or 1.0
    return [
        {**part, "breakdown": _breakdown(part["phases"] or {"startup": 1.0}, words), "width": part["seconds"] / longest}
        for part in parts
    ]


def _seconds(value: float | None) -> str:
    """Return a duration.

    >>> _seconds(0.0123), _seconds(4.2), _seconds(90), _seconds(None)
    ('12.3 ms', '4.2 s', '90 s', '–')
    """
    if value is None:
        return "–"
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 300 else f"{value / 60:.1f} min"
