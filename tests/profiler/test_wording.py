"""What is said of a recording is no more than it holds."""

from __future__ import annotations

from typing import Any

import pytest
from tests.profiler.making import recording, samples, step

from finepoint.profiler.checking import judge_aws, judge_own
from finepoint.profiler.ending import judge_ending
from finepoint.profiler.summary import summary_of
from finepoint.profiler.wording import nothing_in_words, recorded_in_words, words_of

HEALTHY = [step(data_wait=0.001, forward=0.05, backward=0.1, optimizer=0.01, other=0.001)] * 72


def said(rows: list[dict[str, float]], *, count: int = 60, **given: Any) -> tuple[list[str], str, dict[str, Any]]:
    made = recording(rows, samples(count, cpu=0.8, job_cpu=3.0), **given)
    own = judge_own(made)
    summary = summary_of(made, judge_aws(made), own)
    return recorded_in_words(summary), nothing_in_words(summary, own), words_of(summary, own)


def ending(code: int) -> dict[str, Any]:
    return {**judge_ending(code).to_json(), "at": 1060.0}


def test_a_judged_job_has_nothing_to_change() -> None:
    (sentence,), nothing, words = said(HEALTHY)
    assert sentence.startswith("72 steps took")
    assert nothing.startswith("No rule found anything to change")
    assert (words["level"], words["label"]) == ("good", "nothing to change")


def test_a_job_without_steps_is_not_passed() -> None:
    (sentence,), nothing, words = said([])
    assert sentence.startswith("No steps were recorded")
    assert nothing == "Nothing but the machine could be judged."
    assert "no steps were recorded" in words["headline"]
    assert (words["level"], words["label"]) == ("fair", "not judged")
    assert said([], count=3)[1] == "Nothing could be judged."


def test_a_job_of_a_few_steps_says_how_many_rules_did_not_judge() -> None:
    _, nothing, words = said(HEALTHY[:2])
    assert nothing.startswith("No rule found anything to change; ")
    assert nothing.endswith(" had too few data points to judge.")
    assert words["headline"] == nothing
    assert (words["level"], words["label"]) == ("fair", "not judged")


def test_a_killed_jobs_steps_are_at_least_those() -> None:
    sentence, lost = said(HEALTHY, ending=ending(-9))[0]
    assert sentence.startswith("At least 72 steps took")
    assert lost.startswith("Its last seconds may be missing")
    assert "Of a job that is killed" in said([], ending=ending(-15))[0][0]


@pytest.mark.parametrize("code", [0, 1, -2])
def test_one_that_ended_as_python_ends_has_all_its_steps(code: int) -> None:
    (sentence,), _, _ = said(HEALTHY, ending=ending(code))
    assert sentence.startswith("72 steps took")


def test_steps_that_were_not_all_counted_are_about_so_many() -> None:
    rows = [*HEALTHY, HEALTHY[0] | {"steps": 7.4}]
    assert said(rows)[0][0].startswith("About 79 steps took")
    assert said(rows, ending=ending(-9))[0][0].startswith("At least about 79 steps took")
    almost = [*HEALTHY[1:], HEALTHY[0] | {"steps": 1 - 1e-9}]
    assert said(almost)[0][0].startswith("72 steps took")
