"""The SDK's words for debugger and profiler: rules, hook and collection configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from finepoint.debugger.rules.base import find_rule
from finepoint.errors import ConfigurationError
from finepoint.notebook.arguments import take
from finepoint.profiler.checking import aws_rule_names

_REPORT = "ProfilerReport"
_HERE = "here"


@dataclass(frozen=True)
class CollectionConfig:
    """A collection of tensors that smdebug's hook saves; parameters are strings, as in `debughookconfig.json`."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `debughookconfig.json`."""
        values = {key: str(value) for key, value in (self.parameters or {}).items()}
        return {"CollectionName": self.name, "CollectionParameters": values}


@dataclass(frozen=True)
class DebuggerHookConfig:
    """What smdebug's hook saves; the S3 address has no meaning here, the job's `debug-output` takes its place."""

    s3_output_path: str | None = None
    container_local_output_path: str | None = None
    hook_parameters: Mapping[str, Any] | None = None
    collection_configs: Sequence[CollectionConfig] | None = None

    def __post_init__(self) -> None:
        names = ("s3_output_path", "container_local_output_path")
        take("DebuggerHookConfig", {name: getattr(self, name) for name in names}, where=_HERE)

    def to_json(self, more: Sequence[CollectionConfig] = ()) -> dict[str, Any]:
        """Return `debughookconfig.json` with these collections and more."""
        made: dict[str, Any] = {}
        if self.hook_parameters:
            made["HookParameters"] = {key: str(value) for key, value in self.hook_parameters.items()}
        collections = {collection.name: collection for collection in (*more, *(self.collection_configs or ()))}
        if collections:
            made["CollectionConfigurations"] = [collection.to_json() for collection in collections.values()]
        return made


@dataclass(frozen=True)
class RuleConfig:
    """A built-in rule: what `rule_configs.NAME()` returns."""

    name: str
    profiler: bool = False


@dataclass(frozen=True)
class StopTraining:
    """The action that ends a job when a rule fires: `rule_configs.StopTraining()`, alone or in an `ActionList`."""


class _RuleConfigs:
    """The built-in rules by the SDK's names: `rule_configs.vanishing_gradient()`, `rule_configs.ProfilerReport()`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def configuration(*given: Any, **parameters: Any) -> Any:
            if name == "ActionList":
                return given
            if given:
                parameters |= {str(value): value for value in given}
            if name == "StopTraining" or not name[0].isupper():
                take(f"rule_configs.{name}", parameters, where=_HERE)
                return StopTraining() if name == "StopTraining" else RuleConfig(find_rule(name).__name__)
            known = (_REPORT, *aws_rule_names())
            if name not in known:
                raise ConfigurationError(
                    f"there is no rule or action {name!r} here; rules of the profiler are {', '.join(known)}"
                )
            take(f"rule_configs.{name}", parameters, where=_HERE)
            return RuleConfig(name, profiler=True)

        return configuration


rule_configs = _RuleConfigs()


@dataclass(frozen=True)
class Rule:
    """A rule that judges a job; make it with `Rule.sagemaker` or `Rule.custom`."""

    name: str
    rule: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    collections: tuple[CollectionConfig, ...] = ()
    stops: bool = False
    source: str = ""

    @classmethod
    def sagemaker(
        cls,
        base_config: RuleConfig,
        name: str | None = None,
        container_local_output_path: str | None = None,
        s3_output_path: str | None = None,
        other_trials_s3_input_paths: Sequence[str] | None = None,
        rule_parameters: Mapping[str, Any] | None = None,
        collections_to_save: Sequence[CollectionConfig] | None = None,
        actions: Any = None,
    ) -> Rule:
        """Return a built-in rule, with its parameters; its one possible action is `rule_configs.StopTraining()`.

        Raises:
            ConfigurationError: it compares several jobs, or has other actions; that is not supported here.
        """
        paths = {"container_local_output_path": container_local_output_path, "s3_output_path": s3_output_path}
        take("Rule.sagemaker", {"name": None if name == base_config.name else name, **paths}, where=_HERE)
        mistakes = []
        if base_config.profiler:
            mistakes.append(f"{base_config.name} is a profiler's rule; use ProfilerRule.sagemaker")
        if other_trials_s3_input_paths:
            mistakes.append(
                "other_trials_s3_input_paths is not supported; see `finepoint debug check --rule SimilarAcrossRuns`"
            )
        taken = list(actions) if isinstance(actions, list | tuple) else [] if actions is None else [actions]
        if not all(isinstance(action, StopTraining) for action in taken):
            mistakes.append("actions other than rule_configs.StopTraining() are not supported here")
        if mistakes:
            raise ConfigurationError(mistakes)
        parameters = {key: value for key, value in (rule_parameters or {}).items() if key != "rule_to_invoke"}
        collections = tuple(collections_to_save or ())
        return cls(name or base_config.name, base_config.name, parameters, collections, stops=bool(taken))

    @classmethod
    def custom(
        cls,
        name: str,
        image_uri: str | None = None,
        instance_type: str | None = None,
        volume_size_in_gb: int | None = None,
        source: str | None = None,
        rule_to_invoke: str | None = None,
        container_local_output_path: str | None = None,
        s3_output_path: str | None = None,
        other_trials_s3_input_paths: Sequence[str] | None = None,
        rule_parameters: Mapping[str, Any] | None = None,
        collections_to_save: Sequence[CollectionConfig] | None = None,
        actions: Any = None,
    ) -> Rule:
        """Return a rule of one's own: a class with `invoke_at_step` in a Python file, judged when the job has ended.

        Args:
            name: of the rule.
            image_uri: and instance_type, volume_size_in_gb: no container runs it here.
            source: the file, of this machine.
            rule_to_invoke: the class.
            container_local_output_path: and s3_output_path: no meaning here.
            other_trials_s3_input_paths: refused.
            rule_parameters: of its constructor, handed over as text.
            collections_to_save: by the script's smdebug hook.
            actions: refused.

        Raises:
            ConfigurationError: source or class are missing, or it compares jobs or has actions.
        """
        mistakes = [
            f"{argument} is missing"
            for argument, value in (("source", source), ("rule_to_invoke", rule_to_invoke))
            if not value
        ]
        mistakes += [
            f"{argument} is not supported here"
            for argument, value in (("other_trials_s3_input_paths", other_trials_s3_input_paths), ("actions", actions))
            if value
        ]
        if mistakes:
            raise ConfigurationError([f"Rule.custom {name}: {mistake}" for mistake in mistakes])
        where = {"image_uri": image_uri, "instance_type": instance_type, "volume_size_in_gb": volume_size_in_gb}
        paths = {"container_local_output_path": container_local_output_path, "s3_output_path": s3_output_path}
        take("Rule.custom", where | paths, where=_HERE)
        parameters = {
            key: str(value)
            for key, value in (rule_parameters or {}).items()
            if key not in ("rule_to_invoke", "source_s3_uri")
        }
        file = str(Path(str(source)).resolve())
        return cls(name, str(rule_to_invoke), parameters, tuple(collections_to_save or ()), source=file)


@dataclass(frozen=True)
class ProfilerRule:
    """A rule of the profiler; make it with `ProfilerRule.sagemaker`."""

    name: str

    @classmethod
    def sagemaker(
        cls,
        base_config: RuleConfig,
        name: str | None = None,
        container_local_output_path: str | None = None,
        s3_output_path: str | None = None,
    ) -> ProfilerRule:
        """Return a built-in rule of the profiler, judged at its defaults; any one has all of them judged.

        Raises:
            ConfigurationError: it is a rule of the debugger.
        """
        if not base_config.profiler:
            raise ConfigurationError(f"{base_config.name} is a rule of the debugger; use Rule.sagemaker")
        paths = {"container_local_output_path": container_local_output_path, "s3_output_path": s3_output_path}
        take("ProfilerRule.sagemaker", {"name": name, **paths}, where=_HERE)
        return cls(name or base_config.name)


@dataclass(frozen=True)
class FrameworkProfile:
    """What the profiler watches in the framework: `num_steps` after the warm-up under torch.profiler.

    The steps' phases are recorded from the first to the last.
    """

    local_path: str | None = None
    file_max_size: int | None = None
    file_close_interval: int | None = None
    file_open_fail_threshold: int | None = None
    detailed_profiling_config: Any = None
    dataloader_profiling_config: Any = None
    python_profiling_config: Any = None
    horovod_profiling_config: Any = None
    smdataparallel_profiling_config: Any = None
    start_step: int | None = None
    num_steps: int | None = None
    start_unix_time: int | None = None
    duration: float | None = None

    def __post_init__(self) -> None:
        others = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "num_steps"}
        take("FrameworkProfile", others, where=_HERE)


@dataclass(frozen=True)
class ProfilerConfig:
    """How often the profiler looks, and at what."""

    s3_output_path: str | None = None
    system_monitor_interval_millis: int | None = None
    framework_profile_params: FrameworkProfile | None = None
    disable_profiler: bool = False

    def __post_init__(self) -> None:
        take("ProfilerConfig", {"s3_output_path": self.s3_output_path}, where=_HERE)


def debugger_of(rules: Sequence[Any], hook: Any) -> dict[str, Any] | None:
    """Return a job's `debugger` configuration.

    Args:
        rules: `Rule` and `ProfilerRule` objects.
        hook: a `DebuggerHookConfig`, None, or False.

    Raises:
        ConfigurationError: rules or parameters that there are not.
    """
    from finepoint.engines.debugging import debugger_configuration

    strange = [rule for rule in rules if not isinstance(rule, Rule | ProfilerRule)]
    mistakes = [f"rules: {rule!r} is none; make it by Rule or ProfilerRule" for rule in strange]
    if not isinstance(hook, DebuggerHookConfig | bool | None):
        mistakes.append(f"debugger_hook_config is {hook!r}; it must be a DebuggerHookConfig, or False")
    given = [rule for rule in rules if isinstance(rule, Rule)]
    judged, custom = [rule for rule in given if not rule.source], [rule for rule in given if rule.source]
    names = [rule.rule for rule in judged]
    twice = sorted({name for name in names if names.count(name) > 1})
    mistakes += [
        f"rules: {name} is given more than once; it is judged once, with one set of parameters" for name in twice
    ]
    if mistakes:
        raise ConfigurationError(mistakes)
    if not given and not isinstance(hook, DebuggerHookConfig):
        return None
    more = [collection for rule in given for collection in rule.collections]
    configuration = hook if isinstance(hook, DebuggerHookConfig) else DebuggerHookConfig()
    return debugger_configuration(
        attach=bool(given),
        hook=configuration.to_json(more),
        rules={rule.rule: dict(rule.parameters) for rule in judged},
        stop_on=[rule.rule for rule in judged if rule.stops],
        custom=[
            {"name": rule.name, "source": rule.source, "rule_to_invoke": rule.rule, "parameters": dict(rule.parameters)}
            for rule in custom
        ],
    )


def profiler_of(rules: Sequence[Any], config: ProfilerConfig | None) -> dict[str, Any] | None:
    """Return a job's `profiler` configuration: there is one where a profiler's rule or a configuration is given.

    Raises:
        ConfigurationError: the interval is out of its range.
    """
    from finepoint.engines.profiling import profiler_configuration

    if config is not None and not isinstance(config, ProfilerConfig):
        raise ConfigurationError(f"profiler_config is {config!r}; it must be a ProfilerConfig")
    if config is not None and config.disable_profiler:
        return None
    if config is None and not any(isinstance(rule, ProfilerRule) for rule in rules):
        return None
    settings = config or ProfilerConfig()
    framework = settings.framework_profile_params
    given = {"interval_ms": settings.system_monitor_interval_millis}
    return profiler_configuration(
        **{name: value for name, value in given.items() if value is not None},
        profile_steps=(framework.num_steps or 0) if framework else 0,
    )
