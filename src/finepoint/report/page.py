"""Writing `report.html` from a run's files. It imports none of the rooms that wrote them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from finepoint.errors import InputError
from finepoint.files import read_json, read_json_lines, write_bytes
from finepoint.report import charts
from finepoint.report.profiling import has_profile, profiler_assets, profiler_section
from finepoint.report.scales import number
from finepoint.report.templates import ASSETS, environment, page_bytes

# From so many classes on a table of numbers cannot be read.
_MANY_CLASSES = 24
_PAIRS = 15
_SKIPPED = 30


def write_report(run: Path) -> Path:
    """Write the report of a run and return its path.

    Args:
        run: a run's folder with a `summary.json`. What else is missing is left out of the report, which says so.

    Raises:
        InputError: there is no readable summary.
    """
    summary = read_json(run / "summary.json")
    try:
        page = environment().get_template("report.html").render(**_content(run, summary))
    except (KeyError, TypeError, AttributeError, jinja2.UndefinedError) as error:
        raise InputError(
            f"{run / 'summary.json'} is damaged ({error}); delete it and repeat the run's command"
        ) from error
    target = run / "report.html"
    write_bytes(target, page_bytes(page))
    return target


def _content(run: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    test, tuning, training = (summary.get(key) for key in ("test", "tuning", "training"))
    done = [trial for trial in (tuning or {}).get("trials", []) if trial["value"] is not None]
    evaluation = run / "evaluation"
    profile = profiler_section(run) if "profiler" in summary and has_profile(run) else None
    style, script = profiler_assets() if profile else ("", "")
    return {
        "summary": summary,
        "test": test,
        "tuning": tuning,
        "training": training,
        "verdict": summary.get("verdict"),
        "profile": profile,
        "style": (ASSETS / "report.css").read_text() + style,
        "script": (ASSETS / "report.js").read_text() + script,
        "history": charts.history_chart(tuning) if tuning and len(done) > 1 else None,
        "parallel": charts.parallel_chart(tuning) if tuning and len(done) > 1 else None,
        "curves": _curves(training),
        "debugger": _debugger(summary.get("debugger")),
        "reliability": charts.reliability_chart(test["reliability_before"], test["reliability_after"])
        if test
        else None,
        "confusion": _confusion(test) if test else None,
        "mistakes": _pictures(evaluation, "mistakes.json"),
        "label_issues": _pictures(evaluation, "label_issues.json"),
        "readings": _readings(evaluation),
        "random": [backbone["name"] for backbone in summary["backbones"] if backbone["random"]],
        "shown_skipped": _SKIPPED,
        "run_name": summary["run"],
    }


def _curves(training: Mapping[str, Any] | None) -> list[Any]:
    if not training or not training["epochs"]:
        return []
    return [charts.curves_chart(training["epochs"], name, training["best_epoch"]) for name in ("loss", "accuracy")]


def _debugger(judged: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the debugger's findings by what they say, each that fired with a plot of its evidence."""
    if not judged:
        return None
    found = judged["findings"]
    return {
        "fired": [
            {**item, "seen": _seen(item["evidence"]), "plot": charts.evidence_chart(item["evidence"].get("series", []))}
            for item in found
            if item["status"] == "IssuesFound"
        ],
        "unjudged": [item for item in found if item["status"] in ("NotApplicable", "Error")],
        "clean": [item["rule"] for item in found if item["status"] == "NoIssuesFound"],
        "overhead_fraction": judged["overhead_fraction"],
        "notes": judged["notes"],
    }


def _seen(evidence: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in evidence.items() if name != "series")


def _value(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _confusion(test: Mapping[str, Any]) -> dict[str, Any]:
    names = [row["name"] for row in test["per_class"]]
    pairs = sorted(
        (
            {"true": names[row], "answer": names[column], "count": count, "of": sum(counts)}
            for row, counts in enumerate(test["confusion"])
            for column, count in enumerate(counts)
            if row != column and count
        ),
        key=lambda pair: (-int(pair["count"]), pair["true"], pair["answer"]),
    )
    many = len(names) > _MANY_CLASSES
    rows = [
        {
            "name": name,
            "cells": [
                {"count": count, "share": count / (sum(counts) or 1), "right": index == place}
                for index, count in enumerate(counts)
            ],
        }
        for place, (name, counts) in enumerate(zip(names, test["confusion"], strict=True))
    ]
    return {
        "names": names,
        "many": many,
        "rows": [] if many else rows,
        "picture": charts.compact_confusion(test["confusion"], names) if many else None,
        "pairs": pairs[:_PAIRS],
    }


def _pictures(evaluation: Path, name: str) -> dict[str, Any] | None:
    """Return a list of images with their thumbnails as data addresses."""
    path = evaluation / name
    if not path.is_file():
        return None
    found = read_json(path)
    images = [{**image, "picture": _data_address(evaluation, image["thumbnail"])} for image in found["images"]]
    return {"count": found["count"], "images": images}


def _data_address(evaluation: Path, thumbnail: str | None) -> str | None:
    path = evaluation / (thumbnail or "")
    if not thumbnail or not path.is_file():
        return None
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def _readings(evaluation: Path) -> list[dict[str, str]]:
    path = evaluation / "ledger.jsonl"
    return read_json_lines(path) if path.is_file() else []
