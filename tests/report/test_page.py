from __future__ import annotations

import html.parser
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finepoint.report.page import write_report
from finepoint.report.scales import Scale, ticks

HOSTILE = '<script>alert("x")</script>'


def write_run(folder: Path, classes: list[str], *, images: int = 400, test: bool = True) -> Path:
    """Write the files of a run as the other rooms write them."""
    chance = random.Random(0)
    trials: list[dict[str, Any]] = [
        {
            "number": number,
            "status": "completed" if number % 7 else "failed",
            "hyperparameters": {
                "lr": 10 ** chance.uniform(-3, -1),
                "batch_size": chance.choice([64, 128]),
                "optimizer": "adam",
            },
            "value": chance.uniform(0.3, 1.2) if number % 7 else None,
            "seconds": 0.2,
            "attempts": 1,
            "epochs": [],
            "reason": "",
        }
        for number in range(20)
    ]
    best = min((trial for trial in trials if trial["value"]), key=lambda trial: trial["value"])
    counts = dict.fromkeys(("train", "valid", "test"), images // len(classes))
    summary: dict[str, Any] = {
        "schema_version": 1,
        "run": "run-1",
        "kind": "run",
        "status": "completed",
        "command": "finepoint run 'photos of <b>'",
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:01:00+00:00",
        "seed": 0,
        "versions": {"finepoint": "0.1.0", "python": "3.12.0"},
        "machine": {"processor": "x", "cores": 2, "memory_bytes": 2**34, "system": "Linux"},
        "data": {
            "root": f"/photos/{HOSTILE}",
            "fingerprint": "ab" * 32,
            "classes": classes,
            "images": counts,
            "images_per_class": dict.fromkeys(classes, counts),
            "bytes": 10**8,
            "skipped": [{"path": f"{HOSTILE}.jpg", "reason": "empty"}] * 50,
            "leaks": [],
            "findings": [
                {"name": "A", "severity": "warning", "message": f"class {HOSTILE}", "evidence": {}, "remedy": "look"}
            ],
        },
        "backbones": [
            {
                "name": "efficientnet_lite0",
                "random": False,
                "weights_source": "package",
                "licence": "Apache-2.0",
                "weights_sha256": "cd" * 32,
                "runtime": "openvino",
                "precision": "f32",
                "runtime_reason": "asked for",
            }
        ],
        "features": {"images_embedded": images, "images_from_cache": 0, "images_per_second": 100.0, "seconds": 4.0},
        "tuning": {
            "strategy": "bayesian",
            "objective": "valid_loss",
            "direction": "minimize",
            "trials": trials,
            "best": {key: best[key] for key in ("number", "hyperparameters", "value")},
            "importance": {"lr": 0.9, "batch_size": 0.1},
            "seconds": 4.0,
        },
        "report_path": "report.html",
        "seconds_total": 60.0,
    }
    if test:
        summary |= _trained_and_tested(classes, images, chance)
        _write_pictures(folder / "evaluation", classes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _trained_and_tested(classes: list[str], images: int, chance: random.Random) -> dict[str, Any]:
    each = images // len(classes)
    confusion = [[each - 1 if row == column else 0 for column in range(len(classes))] for row in range(len(classes))]
    for row in range(len(classes)):
        confusion[row][(row + 1) % len(classes)] += 1
    metrics = {"precision": 0.9, "recall": 0.9, "recall_low": 0.8, "recall_high": 0.95, "f1": 0.9}
    rows = [{"low": 0.0, "high": 1.0, "images": images, "confidence": 0.9, "accuracy": 0.92}]
    epochs = [
        {
            "epoch": n,
            "train_loss": 1 / n,
            "valid_loss": 1.1 / n,
            "train_accuracy": 0.8,
            "valid_accuracy": 0.79 + n / 100,
        }
        for n in range(1, 5)
    ]
    return {
        "training": {
            "epochs": epochs,
            "best_epoch": 4,
            "hyperparameters": {"head": "linear", "optimizer": "adam", "lr": 0.01, "batch_size": 64},
        },
        "test": {
            "images": images,
            "accuracy": 0.9,
            "accuracy_low": 0.86,
            "accuracy_high": 0.93,
            "balanced_accuracy": 0.9,
            "macro_f1": 0.9,
            "top_5_accuracy": 0.99,
            "log_loss": 0.3,
            "ece_before": 0.05,
            "ece_after": 0.02,
            "temperature": 1.1,
            "majority_baseline": 0.2,
            "per_class": [{"name": name, "images": each, **metrics} for name in classes],
            "confusion": confusion,
            "reliability_before": rows,
            "reliability_after": rows,
        },
        "model": {"path": "model.tar.gz", "sha256": "ef" * 32, "bytes": 25_000_000},
        "verdict": {
            "headline": "Right on 360 of 400 test images: 90.0 % (95 % …)",
            "level": "good",
            "sentences": ["Fine."],
            "findings": [],
        },
    }


def _write_pictures(evaluation: Path, classes: list[str]) -> None:
    (evaluation / "thumbnails").mkdir(parents=True)
    images = []
    for number in range(24):
        name = f"thumbnails/{number}.jpg"
        Image.effect_noise((160, 160), 80).convert("RGB").save(evaluation / name, quality=80)
        images.append(
            {
                "path": f"{HOSTILE}/{number}.jpg",
                "label": classes[0],
                "predicted": classes[-1],
                "probability": 0.9,
                "thumbnail": name,
                "suggested": classes[-1],
            }
        )
    for name in ("mistakes.json", "label_issues.json"):
        (evaluation / name).write_text(json.dumps({"count": 30, "images": images}))
    (evaluation / "ledger.jsonl").write_text('{"at": "2026-01-01", "purpose": "evaluation"}\n')


class Balanced(html.parser.HTMLParser):
    """Checks that every tag is closed, and collects scripts and addresses."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


CLASSES = ["124.Poodle", HOSTILE, "größe & 'quotes' \"two\"", "shoes"]


def test_the_page_is_self_contained_and_hostile_names_stay_text(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", CLASSES)).read_text()
    parser = parse(page)
    assert parser.scripts == 1
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in parser.addresses)
    assert not re.search(r"url\(|@import", page)
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", CLASSES)
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


@pytest.mark.parametrize("classes", [10, 133])
def test_four_thousand_images_stay_under_five_megabytes(tmp_path: Path, classes: int) -> None:
    run = write_run(tmp_path / "run", [f"{number:03}.class" for number in range(classes)], images=4000)
    path = write_report(run)
    assert path.stat().st_size < 5_000_000
    parse(path.read_text())


def test_a_run_that_only_tuned_says_so(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", CLASSES, test=False)).read_text()
    parse(page)
    assert "Tuned, not yet trained" in page
    assert 'id="results"' not in page


def test_missing_pictures_are_said_to_be_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", CLASSES)
    for path in (run / "evaluation" / "thumbnails").iterdir():
        path.unlink()
    assert "no picture" in write_report(run).read_text()
    (run / "evaluation" / "mistakes.json").unlink()
    assert "holds no list of mistakes" in write_report(run).read_text()


def test_random_weights_are_flagged_at_the_top(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", CLASSES)
    summary = json.loads((run / "summary.json").read_text())
    summary["backbones"][0]["random"] = True
    (run / "summary.json").write_text(json.dumps(summary))
    page = write_report(run).read_text()
    assert page.index('class="alarm"') < page.index("<h1>")


def test_what_the_debugger_found_is_shown_with_its_plot_and_what_it_could_not_judge_is_no_pass(tmp_path: Path) -> None:
    run = write_run(tmp_path, ["a", "b"])
    summary = json.loads((run / "summary.json").read_text())
    nothing = {"first_step": None, "mode": None, "evidence": {}, "meaning": "", "remedy": "", "reason": ""}
    drawn = {"name": "<i>loss", "mode": "TRAIN", "reduction": "mean", "steps": [0, 1, 2], "values": [1.0, "nan", 3.0]}
    fired = {"status": "IssuesFound", "first_step": 2, "mode": "TRAIN", "evidence": {"factor": 3, "series": [drawn]}}
    summary["debugger"] = {
        "findings": [
            {**nothing, **fired, "rule": "Overfit", "meaning": "It overfits.", "remedy": "stop at step 1"},
            {**nothing, "rule": "DeadRelu", "status": "NotApplicable", "reason": "no ReLU was seen"},
            {**nothing, "rule": "NotANumber", "status": "NoIssuesFound"},
        ],
        "overhead_fraction": 0.021,
        "notes": ["every 10th"],
    }
    (run / "summary.json").write_text(json.dumps(summary))
    page = write_report(run).read_text()
    parse(page)
    section = page.partition('<section id="debugger">')[2].partition("</section>")[0]
    for words in ("1 of 3 rules found something", "It overfits.", "stop at step 1", "factor 3", "2.1 %", "every 10th"):
        assert words in section
    assert "&lt;i&gt;loss" in section
    assert "<polyline" in section or "<path" in section
    assert "Nothing found by NotANumber." in section
    assert "DeadRelu</strong>: no ReLU was seen" in section


def test_scales_and_ticks_by_hand() -> None:
    assert Scale(0.001, 0.1, 0, 100, logarithmic=True)(0.01) == pytest.approx(50)
    assert Scale(5, 5, 0, 100)(5) == 50
    assert ticks(0, 10) == [0, 2.5, 5, 7.5, 10]
    assert ticks(3, 3) == [3]


def test_hundreds_of_classes_do_not_push_the_rest_out_of_sight(tmp_path: Path) -> None:
    few = write_report(write_run(tmp_path / "few", [f"c{n}" for n in range(10)])).read_text()
    many = write_report(write_run(tmp_path / "many", [f"c{n}" for n in range(300)])).read_text()
    for name in ("Images of each class", "Each class"):
        assert f"<details open><summary>{name}</summary>" in few
        assert f"<details><summary>{name}</summary>" in many


INT8 = {
    "precision_before": "f32",
    "accuracy_before": 0.9,
    "accuracy_int8": 0.895,
    "images": 100,
    "calibration_images": 50,
    "max_drop": 0.01,
    "speedup": 1.5,
    "unknown_kept_before": 0.95,
    "unknown_kept_int8": None,
}


def test_the_report_says_what_int8_costs_whether_or_not_it_was_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", CLASSES)
    page = write_report(run).read_text()
    assert "finepoint quantise run-1 --out run-1-int8.tar.gz" in page
    summary = json.loads((run / "summary.json").read_text())
    kept = {**INT8, "kept": True, "reason_against": "", "path": "small.tar.gz"}
    (run / "summary.json").write_text(json.dumps({**summary, "quantisation": kept}))
    page = write_report(run).read_text()
    parse(page)
    assert "0.895 in int8 and 0.900 in f32 (allowed: 0.01 less)" in page
    assert "finepoint deploy small.tar.gz" in page
    refused = {**INT8, "kept": False, "reason_against": "it is <slower>", "path": None}
    (run / "summary.json").write_text(json.dumps({**summary, "quantisation": refused}))
    page = write_report(run).read_text()
    assert "Not kept" in page and "it is &lt;slower&gt;" in page
    assert "finepoint deploy small.tar.gz" not in page
