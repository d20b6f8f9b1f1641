"""What a recording comes down to, in words that someone who never profiled understands."""

from __future__ import annotations

from typing import Any

from finepoint.results import RuleResult

_DOING = {
    "data_wait": "waiting for data",
    "copy": "copying data to the GPU",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the optimizer",
    "evaluation": "evaluation",
    "checkpoint": "writing checkpoints",
    "hook": "recording",
    "other": "the script's own code",
}
# Of which a part of a phase is, and what that does.
_WITHIN = {"data_wait": ("decode", "decoding images"), "forward": ("frozen_forward", "frozen layers")}
_WORK = {
    "startup": "starting processes",
    "check": "checking the images",
    "features": "computing features",
    "tuning": "tuning",
    "training": "training the best",
    "evaluation": "evaluating",
    "packing": "packing the model",
}


def words_of(summary: dict[str, Any], own: list[RuleResult]) -> dict[str, Any]:
    """Return a headline and a few sentences.

    Args:
        summary: the `profiler` object.
        own: what our rules say, the most promising first.
    """
    ending, nothing = summary["ending"], nothing_in_words(summary, own)
    findings = [result for result in own if result.fired]
    judged = _steps_seen(summary) and _too_few(own) <= len(own) / 2
    bad_end = ending is not None and ending["kind"] not in ("completed", "unknown")
    sentences: list[str] = []
    sentences += recorded_in_words(summary)
    if summary["window"] is not None and summary["window"]["steps"] < summary["window"]["asked"]:
        sentences.append(_short_window(**summary["window"]))
    startup = sum(summary["startup_seconds"].values())
    if startup > 1 and not summary["parts"]:
        longest = max(summary["startup_seconds"], key=lambda name: float(summary["startup_seconds"][name]))
        sentences.append(f"Before the first step {_time(startup)} went by, most of it in {longest.replace('_', ' ')}.")
    if findings:
        speedup = findings[0].evidence.get("predicted_speedup")
        promise = f" That is predicted to make the loop {speedup:.1f} times as fast." if speedup else ""
        sentences.append(f"First: {findings[0].remedy}.{promise}")
    if bad_end:
        headline = ending["sentence"]
    elif findings:
        headline = findings[0].meaning
    elif not _steps_seen(summary):
        headline = "The machine was watched; no steps were recorded."
    elif judged:
        headline = "Nothing stands out: the time goes where it should."
    else:
        headline = nothing
    level = "poor" if bad_end else "fair" if findings or not judged else "good"
    label = "ended badly" if bad_end else f"{len(findings)} to change" if findings else "nothing to change"
    if not (bad_end or findings or judged):
        label = "not judged"
    return {"headline": headline, "level": level, "label": label, "sentences": sentences, "nothing": nothing}


def nothing_in_words(summary: dict[str, Any], own: list[RuleResult]) -> str:
    """Return what it means that no rule found anything: for that, some must have judged.

    Args:
        summary: the `profiler` object.
        own: what our rules say.
    """
    passed = any(result.status == "NoIssuesFound" for result in own)
    if not _steps_seen(summary):
        return "Nothing but the machine could be judged." if passed else "Nothing could be judged."
    few = _too_few(own)
    rest = f"; {few} of {len(own)} had too few data points to judge" if few else ""
    return f"No rule found anything to change{rest}."


def recorded_in_words(summary: dict[str, Any]) -> list[str]:
    """Return what the time of a job's loop went into, or that none was recorded, and what may be missing."""
    killed = _was_killed(summary)
    if not (summary["phases"] or summary["parts"]):
        lost = " Of a job that is killed, what is not on disk yet is lost: its last seconds." if killed else ""
        return [f"No steps were recorded, so that only the machine's part of the profile is here.{lost}"]
    lost = "Its last seconds may be missing in these figures: they are written every few seconds."
    return [time_in_words(summary), *([lost] if killed else [])]


def time_in_words(summary: dict[str, Any]) -> str:
    """Return what the time of a loop, or of a run of ours, went into, in a sentence.

    >>> phases, within = {"data_wait": 0.6, "forward": 0.4}, {"decode": 0.5, "frozen_forward": 0.0}
    >>> summary = {"parts": [], "steps": 20, "steps_estimated": False, "loop_seconds": 42.0, "ending": None}
    >>> time_in_words(summary | {"phases": phases, "within": within})
    '20 steps took 42 s: 60 % waiting for data (decoding images: 50 %), 40 % the forward pass.'
    """
    if summary["parts"]:
        return _parts(summary["parts"])
    most = sorted(summary["phases"].items(), key=lambda item: -float(item[1]))
    named = [
        f"{100 * share:.0f} % {_DOING[name]}{_mainly(name, summary['within'])}"
        for name, share in most
        if share >= 0.005
    ]
    counted = _counted(summary["steps"], estimated=summary["steps_estimated"], least=_was_killed(summary))
    return f"{counted} took {_time(summary['loop_seconds'])}: {', '.join(named)}."


def _counted(steps: int, *, estimated: bool, least: bool) -> str:
    """Return a number of steps at the beginning of a sentence.

    >>> _counted(1, estimated=False, least=False), _counted(72, estimated=True, least=True)
    ('1 step', 'At least about 72 steps')
    """
    words = [*(["at least"] if least else []), *(["about"] if estimated else [])]
    text = " ".join([*words, f"{steps:,} step{'s' * (steps != 1)}"])
    return text[0].upper() + text[1:]


def _too_few(own: list[RuleResult]) -> int:
    """Return how many rules could not judge so short a job."""
    return sum(result.reason.startswith("too few data points") for result in own)


def _steps_seen(summary: dict[str, Any]) -> bool:
    return bool(summary["steps"] or summary["parts"])


def _was_killed(summary: dict[str, Any]) -> bool:
    """Return whether a job had no time to put its last rows on disk; Python turns SIGINT into an exception."""
    ending = summary["ending"]
    return ending is not None and (ending["kind"] == "out of memory" or ending["signal"] not in (None, "SIGINT"))


def _short_window(asked: int, warm_up: int, steps: int, left_to_script: bool = False) -> str:
    """Return why a window of torch.profiler has fewer steps than it was to have.

    >>> _short_window(asked=10, warm_up=8, steps=0)
    'There is no torch.profiler window: it begins after 8 steps, and the job was over before.'
    """
    if left_to_script:
        return "There is no torch.profiler window: the script runs torch.profiler itself."
    if not steps:
        return f"There is no torch.profiler window: it begins after {warm_up} steps, and the job was over before."
    return f"The torch.profiler window holds {steps} of {asked} steps: the job was over before."


def _parts(parts: list[dict[str, Any]]) -> str:
    """Return what a run was made of in a sentence, the longest part first."""
    whole = sum(part["seconds"] for part in parts)
    named = [
        f"{_time(part['seconds'])} {_WORK[part['name']]}" + _mostly(part["phases"])
        for part in sorted(parts, key=lambda part: -float(part["seconds"]))
        if part["seconds"] >= 0.02 * whole
    ]
    return f"{_time(whole)} in all: {', '.join(named)}."


def _mostly(phases: dict[str, float]) -> str:
    name = max(phases, key=lambda name: phases[name], default="other")
    return "" if name == "other" else f" ({100 * phases[name]:.0f} % of it {_DOING[name]})"


def _mainly(phase: str, within: dict[str, float]) -> str:
    """Return what is known of what a phase is made of."""
    part, words = _WITHIN.get(phase, ("", ""))
    share = within.get(part, 0.0)
    return f" ({words}: {100 * share:.0f} %)" if share >= 0.01 else ""


def _time(seconds: float) -> str:
    """Return a duration.

    >>> _time(0.25), _time(42.0), _time(600)
    ('0.25 s', '42 s', '10 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
