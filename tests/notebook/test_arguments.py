"""Every argument of the SDK's, one by one: it has an effect, is recorded with a notice, or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from finepoint import notebook as sagemaker
from finepoint.engines.sagemaker import cloud as clouds
from finepoint.errors import ConfigurationError
from finepoint.notebook import arguments, estimator, model, session, tuner
from finepoint.notebook.arguments import TAKES

DOCUMENT = Path(__file__).parents[2] / "docs" / "notebook.md"
ROLE = "arn:aws:iam::123456789012:role/finepoint"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
METRICS = [{"Name": "loss", "Regex": "loss: (.*)"}]
RULE = sagemaker.Rule.sagemaker(sagemaker.rule_configs.overfit())
# Class or method, argument, value, and what becomes of it: here, in AWS.
USED, RECORDED, REFUSED = "used", "recorded", "refused"
TABLE: list[tuple[str, str, Any, str, str]] = [
    ("Session", "boto_session", boto3.session.Session(region_name="eu-west-1"), RECORDED, USED),
    ("Session", "default_bucket", "other", RECORDED, USED),
    ("Session", "role", ROLE + "2", RECORDED, USED),
    *(
        ("Session", name, object(), RECORDED, REFUSED)
        for name in (
            "sagemaker_client",
            "sagemaker_runtime_client",
            "sagemaker_featurestore_runtime_client",
            "sagemaker_metrics_client",
            "settings",
            "sagemaker_config",
            "default_bucket_prefix",
        )
    ),
    ("Session", "no_argument", 1, REFUSED, REFUSED),
    ("get_execution_role", "use_default", True, RECORDED, RECORDED),
    ("get_execution_role", "no_argument", 1, REFUSED, REFUSED),
    ("upload_data", "key_prefix", "sets", USED, USED),
    ("upload_data", "bucket", "other", REFUSED, USED),
    ("upload_data", "callback", print, RECORDED, RECORDED),
    ("upload_data", "extra_args", {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KEY}, RECORDED, USED),
    ("upload_data", "extra_args", {"ACL": "public-read"}, RECORDED, REFUSED),
    ("TrainingInput", "content_type", "image/jpeg", RECORDED, RECORDED),
    ("TrainingInput", "input_mode", "FastFile", USED, USED),
    ("TrainingInput", "distribution", "ShardedByS3Key", REFUSED, REFUSED),
    ("TrainingInput", "compression", "Gzip", REFUSED, REFUSED),
    ("TrainingInput", "record_wrapping", "RecordIO", REFUSED, REFUSED),
    ("TrainingInput", "s3_data_type", "AugmentedManifestFile", REFUSED, REFUSED),
    ("TrainingInput", "instance_groups", ["a"], REFUSED, REFUSED),
    ("TrainingInput", "attribute_names", ["a"], REFUSED, REFUSED),
    ("TrainingInput", "target_attribute_name", "a", REFUSED, REFUSED),
    ("TrainingInput", "shuffle_config", object(), REFUSED, REFUSED),
    ("PyTorch", "source_dir", "code", USED, USED),
    ("PyTorch", "hyperparameters", {"lr": 0.1}, USED, USED),
    ("PyTorch", "distribution", {"torch_distributed": {"enabled": True}}, USED, USED),
    ("PyTorch", "distribution", {"smdistributed": {}}, REFUSED, REFUSED),
    ("PyTorch", "distribution", {"torch_distributed": {"enabled": True, "more": 1}}, REFUSED, REFUSED),
    ("PyTorch", "instance_count", 2, USED, USED),
    ("PyTorch", "base_job_name", "dogs", USED, USED),
    ("PyTorch", "metric_definitions", METRICS, USED, USED),
    ("PyTorch", "rules", [RULE], USED, USED),
    ("PyTorch", "rules", [object()], REFUSED, REFUSED),
    ("PyTorch", "debugger_hook_config", sagemaker.DebuggerHookConfig(), USED, USED),
    ("PyTorch", "debugger_hook_config", {"S3OutputPath": "s3://x"}, REFUSED, REFUSED),
    ("PyTorch", "profiler_config", sagemaker.ProfilerConfig(), USED, USED),
    ("PyTorch", "profiler_config", {"S3OutputPath": "s3://x"}, REFUSED, REFUSED),
    ("PyTorch", "max_run", 60, USED, USED),
    ("PyTorch", "checkpoint_s3_uri", "s3://kept/job", USED, USED),
    ("PyTorch", "checkpoint_local_path", "/elsewhere", REFUSED, REFUSED),
    ("PyTorch", "environment", {"A": "1"}, USED, USED),
    ("PyTorch", "input_mode", "FastFile", USED, USED),
    ("PyTorch", "input_mode", "Pipe", REFUSED, USED),
    ("PyTorch", "role", ROLE, RECORDED, USED),
    ("PyTorch", "instance_type", "ml.c5.xlarge", RECORDED, USED),
    ("PyTorch", "image_uri", "mine:1", RECORDED, USED),
    ("PyTorch", "framework_version", "2.1.0", RECORDED, USED),
    ("PyTorch", "use_spot_instances", True, RECORDED, USED),
    ("PyTorch", "max_wait", 90000, RECORDED, USED),
    ("PyTorch", "keep_alive_period_in_seconds", 60, RECORDED, USED),
    ("PyTorch", "volume_size", 50, RECORDED, USED),
    ("PyTorch", "subnets", ["s"], RECORDED, USED),
    ("PyTorch", "security_group_ids", ["g"], RECORDED, USED),
    ("PyTorch", "output_kms_key", KEY, RECORDED, USED),
    ("PyTorch", "volume_kms_key", KEY, RECORDED, USED),
    ("PyTorch", "tags", [{"Key": "a", "Value": "b"}], RECORDED, USED),
    ("PyTorch", "output_path", "s3://x/y", RECORDED, RECORDED),
    ("PyTorch", "code_location", "s3://x/y", RECORDED, RECORDED),
    ("PyTorch", "container_log_level", 10, RECORDED, RECORDED),
    ("PyTorch", "enable_sagemaker_metrics", True, RECORDED, RECORDED),
    ("PyTorch", "enable_network_isolation", True, RECORDED, REFUSED),
    ("PyTorch", "encrypt_inter_container_traffic", True, RECORDED, REFUSED),
    ("PyTorch", "max_retry_attempts", 2, RECORDED, REFUSED),
    *(
        ("PyTorch", name, value, REFUSED, REFUSED)
        for name, value in {
            "compiler_config": object(),
            "container_arguments": ["a"],
            "container_entry_point": ["a"],
            "dependencies": ["lib"],
            "disable_output_compression": True,
            "enable_infra_check": True,
            "enable_remote_debug": True,
            "enable_session_tag_chaining": True,
            "git_config": {"repo": "x"},
            "instance_groups": ["a"],
            "model_channel_name": "m",
            "model_uri": "s3://x/y",
            "recipe_overrides": {"a": 1},
            "tensorboard_output_config": object(),
            "training_image_config": {"a": 1},
            "training_recipe": "r",
            "training_repository_access_mode": "Vpc",
            "training_repository_credentials_provider_arn": "arn",
        }.items()
    ),
    ("fit", "job_name", "dogs", USED, USED),
    ("fit", "experiment_config", {"ExperimentName": "e"}, RECORDED, RECORDED),
    ("fit", "no_argument", 1, REFUSED, REFUSED),
    ("HyperparameterTuner", "metric_definitions", METRICS, USED, USED),
    ("HyperparameterTuner", "strategy", "Random", USED, USED),
    ("HyperparameterTuner", "objective_type", "Minimize", USED, USED),
    ("HyperparameterTuner", "max_jobs", 4, USED, USED),
    ("HyperparameterTuner", "max_parallel_jobs", 2, USED, USED),
    ("HyperparameterTuner", "base_tuning_job_name", "dogs", USED, USED),
    ("HyperparameterTuner", "early_stopping_type", "Auto", USED, USED),
    ("HyperparameterTuner", "random_seed", 7, USED, USED),
    ("HyperparameterTuner", "tags", [{"Key": "a", "Value": "b"}], RECORDED, USED),
    *(
        ("HyperparameterTuner", name, value, REFUSED, REFUSED)
        for name, value in {
            "autotune": True,
            "completion_criteria_config": object(),
            "estimator_name": "e",
            "hyperparameters_to_keep_static": ["a"],
            "max_runtime_in_seconds": 60,
            "strategy_config": object(),
            "warm_start_config": object(),
        }.items()
    ),
    ("HyperparameterTuner.fit", "include_cls_metadata", True, RECORDED, RECORDED),
    ("HyperparameterTuner.fit", "estimator_kwargs", {"a": 1}, REFUSED, REFUSED),
    ("PyTorchModel", "source_dir", "code", USED, USED),
    ("PyTorchModel", "name", "dogs", USED, USED),
    ("PyTorchModel", "predictor_cls", sagemaker.Predictor, USED, USED),
    ("PyTorchModel", "role", ROLE + "2", RECORDED, USED),
    ("PyTorchModel", "image_uri", "mine:1", RECORDED, USED),
    ("PyTorchModel", "framework_version", "2.1.0", RECORDED, USED),
    ("PyTorchModel", "vpc_config", {"Subnets": ["s"], "SecurityGroupIds": ["g"]}, RECORDED, USED),
    ("PyTorchModel", "model_kms_key", KEY, RECORDED, USED),
    ("PyTorchModel", "code_location", "s3://x/y", RECORDED, RECORDED),
    ("PyTorchModel", "container_log_level", 10, RECORDED, RECORDED),
    ("PyTorchModel", "enable_network_isolation", True, RECORDED, REFUSED),
    *(
        ("PyTorchModel", name, value, REFUSED, REFUSED)
        for name, value in {
            "dependencies": ["lib"],
            "env": {"A": "1"},
            "git_config": {"repo": "x"},
            "model_server_workers": 2,
        }.items()
    ),
    ("deploy", "endpoint_name", "dogs", USED, USED),
    ("deploy", "serializer", sagemaker.JSONSerializer(), USED, USED),
    ("deploy", "deserializer", sagemaker.JSONDeserializer(), USED, USED),
    ("deploy", "initial_instance_count", 2, REFUSED, USED),
    ("deploy", "instance_type", "ml.c5.xlarge", RECORDED, USED),
    ("deploy", "tags", [{"Key": "a", "Value": "b"}], RECORDED, USED),
    ("deploy", "kms_key", KEY, RECORDED, USED),
    ("deploy", "wait", False, RECORDED, RECORDED),
    *(
        ("deploy", name, value, RECORDED, REFUSED)
        for name, value in {
            "accelerator_type": "ml.eia2.medium",
            "container_startup_health_check_timeout": 60,
            "model_data_download_timeout": 60,
            "volume_size": 50,
        }.items()
    ),
    *(
        ("deploy", name, object(), REFUSED, REFUSED)
        for name in (
            "async_inference_config",
            "data_capture_config",
            "explainer_config",
            "inference_recommendation_id",
            "serverless_inference_config",
            "update_endpoint",
        )
    ),
    ("Predictor", "serializer", sagemaker.JSONSerializer(), USED, USED),
    ("Predictor", "deserializer", sagemaker.JSONDeserializer(), USED, USED),
    ("Predictor", "component_name", "c", REFUSED, REFUSED),
    ("predict", "initial_args", {"ContentType": "image/jpeg"}, USED, USED),
    ("predict", "initial_args", {"TargetModel": "m"}, REFUSED, REFUSED),
    ("predict", "custom_attributes", "a", USED, USED),
    ("predict", "target_model", "m", REFUSED, REFUSED),
    ("predict", "target_variant", "v", REFUSED, REFUSED),
    ("predict", "inference_id", "i", REFUSED, REFUSED),
    ("Rule.sagemaker", "rule_parameters", {"threshold": "1"}, USED, USED),
    ("Rule.sagemaker", "collections_to_save", [sagemaker.CollectionConfig("losses")], USED, USED),
    ("Rule.sagemaker", "actions", sagemaker.rule_configs.StopTraining(), USED, USED),
    ("Rule.sagemaker", "actions", [object()], REFUSED, REFUSED),
    ("Rule.sagemaker", "other_trials_s3_input_paths", ["s3://x"], REFUSED, REFUSED),
    ("Rule.sagemaker", "name", "mine", RECORDED, RECORDED),
    ("Rule.custom", "rule_parameters", {"threshold": "1"}, USED, USED),
    ("Rule.custom", "collections_to_save", [sagemaker.CollectionConfig("losses")], USED, USED),
    ("Rule.custom", "actions", [object()], REFUSED, REFUSED),
    ("Rule.custom", "other_trials_s3_input_paths", ["s3://x"], REFUSED, REFUSED),
    *(
        ("Rule.custom", name, value, RECORDED, RECORDED)
        for name, value in {"image_uri": "x", "instance_type": "ml.m5.large", "volume_size_in_gb": 9}.items()
    ),
    ("ProfilerRule.sagemaker", "name", "mine", RECORDED, RECORDED),
    *(
        (what, name, "/somewhere", RECORDED, RECORDED)
        for what in ("Rule.sagemaker", "Rule.custom", "ProfilerRule.sagemaker", "DebuggerHookConfig")
        for name in ("s3_output_path", "container_local_output_path")
    ),
    ("DebuggerHookConfig", "hook_parameters", {"save_interval": 1}, USED, USED),
    ("DebuggerHookConfig", "collection_configs", [sagemaker.CollectionConfig("losses")], USED, USED),
    ("ProfilerConfig", "s3_output_path", "s3://x", RECORDED, RECORDED),
    ("ProfilerConfig", "system_monitor_interval_millis", 1000, USED, USED),
    ("ProfilerConfig", "framework_profile_params", sagemaker.FrameworkProfile(num_steps=3), USED, USED),
    ("ProfilerConfig", "disable_profiler", True, USED, USED),
    ("FrameworkProfile", "num_steps", 3, USED, USED),
    *(
        ("FrameworkProfile", name, 1, RECORDED, RECORDED)
        for name in ("local_path", "file_max_size", "file_close_interval", "file_open_fail_threshold", "start_step")
    ),
    *(
        ("FrameworkProfile", name, object(), REFUSED, REFUSED)
        for name in (
            "detailed_profiling_config",
            "dataloader_profiling_config",
            "python_profiling_config",
            "horovod_profiling_config",
            "smdataparallel_profiling_config",
            "start_unix_time",
            "duration",
        )
    ),
    ("rule_configs.overfit", "patience", 1, REFUSED, REFUSED),
    ("rule_configs.ProfilerReport", "CPUBottleneck_cpu_threshold", 90, REFUSED, REFUSED),
    ("rule_configs.StopTraining", "training_job_prefix", "dogs", REFUSED, REFUSED),
]


@pytest.fixture(autouse=True)
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("FINEPOINT_RUNS", "FINEPOINT_STATE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    for path in ("train.py", "data/a.txt", "code/inference.py", "code/train.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    monkeypatch.setattr(arguments, "_told", set())
    monkeypatch.setattr(session, "_made", [])
    monkeypatch.setattr(clouds, "_chosen", [])
    yield


class Calls:
    """What would be started, uploaded, served or asked, in place of doing so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[Any] = []

        def note(*given: Any, **named: Any) -> Any:
            self.seen.append((given, named))
            return self

        for place, name in (
            (estimator.TrainingJob, "start"),
            (tuner, "start"),
            (tuner, "LocalStudy"),
            (tuner.AmtJob, "start"),
            (session, "push"),
            (model, "deploy"),
            (model.endpoints, "deploy"),
            (model.PyTorchModel, "repack"),
        ):
            patch.setattr(place, name, note)

        def answer(*given: Any) -> tuple[bytes, str]:
            note(*given)
            return b"", ""

        patch.setattr(model.Predictor, "_ask", lambda self, *given: answer(*given))
        patch.setattr(model.Predictor, "_ask_cloud", lambda self, *given: answer(*given))

    def wait(self, *given: Any) -> None:
        self.seen.append(given)


def script(**named: Any) -> sagemaker.PyTorch:
    return sagemaker.PyTorch("train.py", **{"source_dir": ".", **named})


def searched(**named: Any) -> sagemaker.HyperparameterTuner:
    space = {"lr": sagemaker.ContinuousParameter(0.1, 0.2)}
    return sagemaker.HyperparameterTuner(script(metric_definitions=METRICS), "loss", space, **named)


def served(**named: Any) -> sagemaker.PyTorchModel:
    return sagemaker.PyTorchModel("model.tar.gz", entry_point="inference.py", **named)


def deployed(**named: Any) -> sagemaker.PyTorchModel:
    made = served(**named)
    made.deploy()
    return made


def upload(**named: Any) -> Any:
    return session.session_of(None).upload_data("data", **named)


def made_again(**named: Any) -> session.Session:
    in_cloud = session.session_of(None).in_cloud
    own = {"bucket": "photos", "role": ROLE, "engine": "sagemaker"} if in_cloud else {"engine": "local"}
    return session.Session(**{**own, **named, **({"bucket": None} if "default_bucket" in named else {})})


MAKE: dict[str, Callable[..., Any]] = {
    "Session": made_again,
    "get_execution_role": sagemaker.get_execution_role,
    "upload_data": upload,
    "TrainingInput": lambda **named: session.channels_of(sagemaker.TrainingInput("data", **named)),
    "PyTorch": script,
    "fit": lambda **named: script().fit("data", **named),
    "HyperparameterTuner": searched,
    "HyperparameterTuner.fit": lambda **named: searched().fit("data", **named),
    "PyTorchModel": deployed,
    "deploy": lambda **named: served().deploy(**named),
    "Predictor": lambda **named: sagemaker.Predictor("dogs", **named),
    "predict": lambda **named: sagemaker.Predictor("dogs").predict(b"x", **named),
    "Rule.sagemaker": lambda **named: sagemaker.Rule.sagemaker(sagemaker.rule_configs.overfit(), **named),
    "Rule.custom": lambda **named: sagemaker.Rule.custom("mine", source="train.py", rule_to_invoke="A", **named),
    "ProfilerRule.sagemaker": lambda **named: sagemaker.ProfilerRule.sagemaker(
        sagemaker.rule_configs.ProfilerReport(), **named
    ),
    "DebuggerHookConfig": lambda **named: sagemaker.DebuggerHookConfig(**named).to_json(),
    "ProfilerConfig": lambda **named: script(profiler_config=sagemaker.ProfilerConfig(**named)).spec("j", {}),
    "FrameworkProfile": lambda **named: script(
        profiler_config=sagemaker.ProfilerConfig(framework_profile_params=sagemaker.FrameworkProfile(**named))
    ).spec("j", {}),
    "rule_configs.overfit": lambda **named: sagemaker.rule_configs.overfit(**named),
    "rule_configs.ProfilerReport": lambda **named: sagemaker.rule_configs.ProfilerReport(**named),
    "rule_configs.StopTraining": lambda **named: sagemaker.rule_configs.StopTraining(**named),
}


def effect(made: Any, calls: Calls) -> str:
    """Return what may be seen of something made, without times and addresses, and without what is recorded."""
    if isinstance(made, session.Session):
        return f"{made.settings()}" if made.in_cloud else ""
    own = (
        {name: value for name, value in vars(made).items() if name not in ("_given", "_tags")}
        if hasattr(made, "__dict__")
        else made
    )
    if isinstance(made, sagemaker.PyTorch):
        spec = made.spec("j", {}).to_json()
        own |= {"spec": {**spec, "tags": {}}}
    return re.sub(r"0x[0-9a-f]+|-\d{4}-[\d-]+", "", f"{own} {calls.seen}")


@pytest.mark.parametrize("engine", ["local", "sagemaker"])
@pytest.mark.parametrize(
    ("what", "argument", "value", "here", "aws"), TABLE, ids=[f"{row[0]}-{row[1]}-{n}" for n, row in enumerate(TABLE)]
)
def test_an_argument_is_used_or_recorded_with_a_notice_or_refused_by_name(
    what: str,
    argument: str,
    value: Any,
    here: str,
    aws: str,
    engine: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = {"bucket": "photos", "role": ROLE, "region": "us-east-1"} if engine == "sagemaker" else {}
    sagemaker.Session(engine=engine, **named)
    expected = aws if engine == "sagemaker" else here
    if argument in ("subnets", "security_group_ids") and expected == USED:
        made = script(subnets=["s"], security_group_ids=["g"])
        assert made._settings == {"subnets": ["s"], "security_groups": ["g"]}
        return
    plain_calls = Calls(monkeypatch)
    plain = effect(MAKE[what](), plain_calls)
    capsys.readouterr()
    calls = Calls(monkeypatch)
    if expected == REFUSED:
        with pytest.raises(ConfigurationError, match=next(iter(value)) if argument == "extra_args" else argument):
            MAKE[what](**{argument: value})
        return
    made = MAKE[what](**{argument: value})
    noticed = re.search(rf"without effect .*\b{argument}\b|{argument}=.* has no effect", capsys.readouterr().out)
    assert bool(noticed) == (expected == RECORDED)
    if expected == USED:
        assert effect(made, calls) != plain


def test_a_profiler_that_is_disabled_is_off() -> None:
    named = {"profiler_config": sagemaker.ProfilerConfig()}
    assert script(**named).spec("j", {}).profiler is not None
    assert script(**named, disable_profiler=True).spec("j", {}).profiler is None


def test_the_same_rule_twice_is_refused_and_keys_that_differ_are() -> None:
    with pytest.raises(ConfigurationError, match="Overfit is given more than once"):
        script(rules=[RULE, RULE])
    sagemaker.Session(engine="sagemaker", bucket="photos", role=ROLE, region="us-east-1")
    with pytest.raises(ConfigurationError, match="output_kms_key, volume_kms_key differ"):
        script(output_kms_key=KEY, volume_kms_key="other")


def test_a_session_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sagemaker_session is"):
        script(sagemaker_session=object())


def test_what_the_table_of_arguments_says_is_tried_and_documented() -> None:
    tried = {(row[0], row[1]) for row in TABLE}
    document = DOCUMENT.read_text()
    for what, takes in TAKES.items():
        row = next(line for line in document.splitlines() if line.startswith(f"| `{what}` |"))
        cells = [set(re.findall(r"`(\w+)`", cell)) for cell in row.split("|")[3:6]]
        own = takes.used_in_aws - (TAKES["Session"].used_in_aws - {"boto_session", "default_bucket"})
        if what != "Session":
            own = takes.used_in_aws
        assert cells == [set(own), set(takes.recorded), set(takes.here)], what
        same = {"py_version"}  # it chooses the image together with framework_version
        assert {(what, name) for name in own | takes.recorded | takes.here if name not in same} <= tried, what
