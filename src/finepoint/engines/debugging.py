"""The debugger in a script's job: recording it from outside, rules that follow it, and what they say at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finepoint.attaching import environment_for, why_not_attached
from finepoint.debugger.agreement import BUDGET_VARIABLE, FOLDER_VARIABLE, NAME
from finepoint.debugger.budget import BUDGET
from finepoint.debugger.hook_file import VARIABLE, parse_hook_file
from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, find_rule
from finepoint.debugger.rules.checking import check_recording, choose_rules
from finepoint.debugger.rules.custom import CustomRule
from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.files import read_json, write_json
from finepoint.profiler.running import PROFILER_OUTPUT
from finepoint.results import RuleResult

HOOK_FILE = Path("input/config/debughookconfig.json")
RESULTS = Path("rule-output/debugger.json")
_OUTPUT = "debug-output"
# In it: what the script's own hook saves.
_OWN = "tensors"
_KEYS = ("attach", "hook", "rules", "stop_on", "budget", "custom")


def debugger_configuration(
    *,
    attach: bool = True,
    hook: Mapping[str, Any] | None = None,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    stop_on: Sequence[str] = (),
    budget: float = BUDGET,
    custom: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return a job's `debugger` configuration.

    Args:
        attach: record the script from outside.
        hook: what `debughookconfig.json` says, for a script that uses smdebug's hook; None is smdebug's defaults.
        rules: parameters by rule; None is all rules that judge without being asked.
        stop_on: rules that end the job when they fire.
        budget: share of the job's time that recording may take.
        custom: rules of the user's own, each with the fields of `CustomRule`; they judge what the script's own hook
            saved, or else what was recorded from outside, when the job has ended.

    Raises:
        ConfigurationError: rules or parameters that there are not, or a hook's configuration that is none.
    """
    made: dict[str, Any] = {"attach": attach, "hook": hook, "rules": rules, "stop_on": list(stop_on), "budget": budget}
    made["custom"] = [asdict(rule) for rule in _custom_of({"custom": custom})]
    _rules_of(made)
    mistakes = [mistake for one in _custom_of(made) for mistake in one.mistakes()]
    if mistakes:
        raise ConfigurationError(mistakes)
    for name in stop_on:
        find_rule(name)
    parse_hook_file(hook or {})
    return made


def debug_environment(base: Mapping[str, str], folder: Path, configuration: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a script's environment in which `import smdebug` works and, where asked for, it is recorded.

    Args:
        base: the environment without the debugger.
        folder: of the host.
        configuration: the job's; None leaves the script unrecorded.
    """
    output = folder / _OUTPUT
    given = configuration or {}
    # SageMaker writes this file too; what the script's own hook saves lies beside what is recorded from outside.
    write_json(folder / HOOK_FILE, {**(given.get("hook") or {}), "LocalPath": str(output / _OWN)})
    settings = {VARIABLE: str(folder / HOOK_FILE)}
    attachments = []
    if given.get("attach"):
        attachments.append(NAME)
        settings |= {FOLDER_VARIABLE: str(output), BUDGET_VARIABLE: str(given["budget"])}
    return environment_for(attachments, output / "attached", settings, base)


@contextmanager
def judged_live(
    folder: Path,
    configuration: Mapping[str, Any] | None,
    say: Callable[[str], None],
    stop: Callable[[str], None],
) -> Iterator[None]:
    """Have the rules follow a job while the block runs; say what they find, and stop the job where that is asked for.

    Args:
        folder: the job's.
        configuration: the job's; without recording nothing is judged.
        say: is told of each finding.
        stop: ends the job, with the reason.
    """
    if not configuration or not configuration["attach"]:
        yield
        return
    from finepoint.debugger.rules.live import LiveJudge  # here, as it takes long to import

    stopping = {find_rule(name).__name__ for name in configuration["stop_on"]}

    def note(result: RuleResult) -> None:
        say(f"{result.rule}: {result.meaning} {result.remedy}".rstrip())
        if result.rule in stopping:
            stop(f"the rule {result.rule} fired")

    judge = LiveJudge(folder / _OUTPUT, _rules_of(configuration), on_finding=note)
    with judge.following():
        yield


def judge_job(folder: Path, configuration: Mapping[str, Any] | None, say: Callable[[str], None]) -> list[RuleResult]:
    """Judge what was recorded of a job that has ended; leave the results in `rule-output/`."""
    if not configuration or not configuration["attach"]:
        return []
    output, rules = folder / _OUTPUT, _rules_of(configuration)
    try:
        recording = Recording.open(output)
    except NotFoundError:
        reason = _why_not_attached(folder) or "the script called no model with parameters"
        say(f"note: nothing was recorded: {reason}")
        unjudged = [*(rule.name for rule in rules), *(rule.name for rule in _custom_of(configuration))]
        results = [RuleResult(name, "NotApplicable", reason=f"nothing was recorded: {reason}") for name in unjudged]
    else:
        results = check_recording(recording, rules)
        results += [rule.judge(saved_by_script(folder)) for rule in _custom_of(configuration)]
        for text in [*recording.notes, *filter(None, [_why_not_attached(folder)])]:
            say(f"note: {text}")
    write_json(folder / RESULTS, [result.to_json() for result in results])
    return results


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return what the rules said of a job, as `judge_job` left it; nothing where it was not judged."""
    return list(read_json(folder / RESULTS)) if (folder / RESULTS).is_file() else []


def saved_by_script(folder: Path) -> Path:
    """Return where a job's recording is: of the script's own hook where it has one, else what was recorded of it."""
    output = folder / _OUTPUT
    return output / _OWN if (output / _OWN).is_dir() else output


def configuration_mistakes(configuration: Mapping[str, Any] | None) -> list[str]:
    """Return what is wrong with a job's `debugger` configuration, in words."""
    if configuration is None:
        return []
    strange = sorted(set(configuration) ^ set(_KEYS))
    if strange:
        return [f"the debugger's configuration has {', '.join(_KEYS)}; {', '.join(strange)} is missing or unknown"]
    try:
        debugger_configuration(**configuration)
    except ConfigurationError as error:
        return list(dict.fromkeys(error.mistakes))
    return []


def _why_not_attached(folder: Path) -> str:
    # Where the profiler is attached too, it was the last to say where the marks go.
    both = folder / PROFILER_OUTPUT / "attached"
    return why_not_attached(both if both.is_dir() else folder / _OUTPUT / "attached")


def _rules_of(configuration: Mapping[str, Any]) -> list[Rule]:
    rules = configuration["rules"]
    return choose_rules() if rules is None else choose_rules(list(rules), rules)


def _custom_of(configuration: Mapping[str, Any]) -> list[CustomRule]:
    return [CustomRule(**rule) for rule in configuration["custom"]]
