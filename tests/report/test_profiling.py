"""The page of a profile stands alone, escapes what comes from outside, and shows what was found."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.profiler.making import NETWORK, job, recording, samples, step

from finepoint.errors import NotFoundError
from finepoint.profiler.finishing import finish
from finepoint.report.profiling import profiler_section, write_profiler_report
from finepoint.report.timelines import evidence_chart

HOSTILE = "<script>alert(1)</script>"
OPERATORS = {
    "steps": 5,
    "began_at": 1.0,
    "seconds": 1.0,
    "memory": [[0.0, 1e6], [0.5, 3e6], [1.0, 2e6]],
    "operators": [
        {
            "name": HOSTILE,
            "calls": 3,
            "self_cpu_seconds": 0.1,
            "cpu_seconds": 0.2,
            "self_device_seconds": 0.0,
            "self_memory_bytes": 4096,
        }
    ],
}


@pytest.fixture
def profiled(tmp_path: Path) -> Path:
    module = {"name": HOSTILE, "class": "Conv2d", "share": 0.5, "frozen": True}
    facts = {"networks": [NETWORK | {"modules": [module], "frozen_share": 0.5}]}
    rows = [step(data_wait=2.0 if number == 15 else 0.3, forward=0.1, backward=0.1) for number in range(20)]
    folder = job(tmp_path / f"job {HOSTILE}".replace("/", "_"), recording(rows, facts=facts, operators=OPERATORS))
    finish(folder)
    return folder


class Tags(HTMLParser):
    """Collects tags that are open, and refuses ones that close what is not."""

    void = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # <line ... /> opens nothing

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(profiled: Path) -> None:
    page = write_profiler_report(profiled)
    assert page == profiled / "rule-output" / "ProfilerReport" / "profiler-output" / "profiler-report.html"
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert "Content-Security-Policy" in text


def test_names_from_outside_stay_text(profiled: Path) -> None:
    text = write_profiler_report(profiled).read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)" in text


def test_every_finding_has_a_picture_of_what_it_rests_on(profiled: Path) -> None:
    text = write_profiler_report(profiled).read_text()
    findings = text.count('<div class="rule">')
    assert findings
    assert text.count('<div class="evidence"><svg') == findings
    assert 'aria-label="milliseconds a step: waiting for data and the whole step"' in text


def test_names_in_a_findings_picture_stay_text() -> None:
    line = {"name": HOSTILE, "points": [[0.0, 1.0], [1.0, 2.0]]}
    picture = evidence_chart({"y": HOSTILE, "lines": [line]})
    assert picture is not None
    assert "<script" not in picture
    assert "&lt;script&gt;" in picture
    assert evidence_chart({"y": "", "lines": [{"name": "", "points": [[0.0, 1.0]]}]}) is None


def test_the_page_says_what_to_change_first_and_explains_slow_steps(profiled: Path) -> None:
    text = write_profiler_report(profiled).read_text()
    headline = re.search(r"<h1>(.*?)</h1>", text, re.DOTALL)
    assert headline is not None
    assert "while one process loads each batch" in headline.group(1)
    assert "num_workers=" in text
    assert "waiting for data" in text
    assert "no GPU was seen" in text
    assert "ui.perfetto.dev" in text


def test_a_job_without_steps_has_a_page_too(tmp_path: Path) -> None:
    folder = job(tmp_path, recording((), samples(60, cpu=0.8, job_cpu=3.0)))
    finish(folder)
    text = write_profiler_report(folder).read_text()
    assert "No steps were recorded" in text
    assert "Nothing but the machine could be judged." in text
    assert "No rule found anything" not in text


def test_a_job_whose_name_is_no_utf_8_has_a_page(tmp_path: Path) -> None:
    folder = job(tmp_path / os.fsdecode(b"caf\xe9"), recording())
    finish(folder)
    assert "job <strong>caf\ufffd</strong>" in write_profiler_report(folder).read_text()


def test_the_section_is_a_part_of_another_page(profiled: Path) -> None:
    section = profiler_section(profiled)
    assert "<html" not in section
    assert 'class="breakdown"' in section


def test_a_job_that_was_not_judged_says_how(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="finepoint profile show"):
        write_profiler_report(tmp_path)
