"""What becomes of the SDK's arguments here: used, recorded with one notice, or refused by name.

Arguments that a signature of ours names are used. `TAKES` says of the others which are recorded; what it does not list
would change the result, or is no argument of the SDK, and is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.errors import ConfigurationError


@dataclass(frozen=True)
class Takes:
    """The arguments of a class or method of the SDK that its signature here does not name.

    Args:
        used_in_aws: have their effect in AWS; on this machine they have no meaning, and are recorded.
        recorded: have no effect on either engine, and change no result.
        here: have no meaning on this machine, and are recorded; in AWS they would have one and are refused.
    """

    used_in_aws: frozenset[str] = frozenset()
    recorded: frozenset[str] = frozenset()
    here: frozenset[str] = frozenset()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OUTPUT_PATHS = Takes(recorded=_names("container_local_output_path s3_output_path"))
TAKES: Mapping[str, Takes] = {
    "Session": Takes(
        used_in_aws=_names("boto_session default_bucket") | {field.name for field in fields(SageMakerSettings)},
        here=_names(
            "sagemaker_client sagemaker_runtime_client sagemaker_featurestore_runtime_client sagemaker_metrics_client "
            "settings sagemaker_config default_bucket_prefix"
        ),
    ),
    "get_execution_role": Takes(recorded=_names("use_default")),
    "upload_data": Takes(used_in_aws=_names("extra_args"), recorded=_names("callback")),
    "TrainingInput": Takes(recorded=_names("content_type")),
    "PyTorch": Takes(
        used_in_aws=_names(
            "role instance_type image_uri framework_version py_version use_spot_instances max_wait "
            "keep_alive_period_in_seconds volume_size subnets security_group_ids output_kms_key volume_kms_key tags"
        ),
        recorded=_names("output_path code_location container_log_level enable_sagemaker_metrics"),
        here=_names("enable_network_isolation encrypt_inter_container_traffic max_retry_attempts"),
    ),
    "fit": Takes(recorded=_names("experiment_config")),
    "HyperparameterTuner": Takes(used_in_aws=_names("tags")),
    "HyperparameterTuner.fit": Takes(recorded=_names("include_cls_metadata")),
    "PyTorchModel": Takes(
        used_in_aws=_names("role image_uri framework_version py_version vpc_config model_kms_key"),
        recorded=_names("code_location container_log_level"),
        here=_names("enable_network_isolation"),
    ),
    "deploy": Takes(
        used_in_aws=_names("instance_type tags kms_key"),
        here=_names("accelerator_type volume_size model_data_download_timeout container_startup_health_check_timeout"),
    ),
    "Rule.sagemaker": Takes(recorded=_OUTPUT_PATHS.recorded | _names("name")),
    "Rule.custom": Takes(recorded=_OUTPUT_PATHS.recorded | _names("image_uri instance_type volume_size_in_gb")),
    "ProfilerRule.sagemaker": Takes(recorded=_OUTPUT_PATHS.recorded | _names("name")),
    "DebuggerHookConfig": _OUTPUT_PATHS,
    "ProfilerConfig": Takes(recorded=_names("s3_output_path")),
    "FrameworkProfile": Takes(
        recorded=_names("local_path file_max_size file_close_interval file_open_fail_threshold start_step")
    ),
}

# In AWS these are settings of the engine.
SETTINGS: Mapping[str, str] = {
    "role": "role",
    "image_uri": "image",
    "instance_type": "instance_type",
    "use_spot_instances": "spot",
    "max_run": "max_run_seconds",
    "max_wait": "max_wait_seconds",
    "keep_alive_period_in_seconds": "keep_alive_seconds",
    "volume_size": "volume_gib",
    "subnets": "subnets",
    "security_group_ids": "security_groups",
    "tags": "tags",
}
# One key encrypts everything.
_KEYS = ("output_kms_key", "volume_kms_key", "model_kms_key", "kms_key")
_told: set[str] = set()


def settings_from(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine's settings that the SDK's arguments stand for.

    Raises:
        ConfigurationError: keys of KMS differ, or a VPC is none.

    >>> settings_from({"volume_size": 50, "tags": [{"Key": "team", "Value": "dogs"}], "role": None})
    {'volume_gib': 50, 'tags': {'team': 'dogs'}}
    """
    given = {name: value for name, value in given.items() if value is not None}
    found = {SETTINGS[name]: value for name, value in given.items() if name in SETTINGS}
    if isinstance(found.get("tags"), list | tuple):
        found["tags"] = {tag["Key"]: tag["Value"] for tag in found["tags"]}
    if network := given.get("vpc_config"):
        if set(network) != {"Subnets", "SecurityGroupIds"}:
            raise ConfigurationError(f"vpc_config is {network!r}; it must have Subnets and SecurityGroupIds")
        found |= {"subnets": network["Subnets"], "security_groups": network["SecurityGroupIds"]}
    keys = {name: given[name] for name in _KEYS if name in given}
    if len(set(keys.values())) > 1:
        raise ConfigurationError(f"{', '.join(keys)} differ; here one key encrypts volumes and what is written to S3")
    return found | ({"kms_key": next(iter(keys.values()))} if keys else {})


def take(what: str, given: Mapping[str, Any], *, in_cloud: bool = False, where: str = "") -> dict[str, str]:
    """Return the arguments that are only recorded, as text; tell of each once.

    Args:
        what: the class or method whose arguments these are, a key of `TAKES`, or of one that takes none.
        given: arguments that were given beyond those that are always used; None and False are the SDK's defaults.
        in_cloud: whether it is for AWS, where more have an effect.
        where: words for where it has none; by default the engine's.

    Raises:
        ConfigurationError: there are others; they would change the result, or are no arguments of the SDK.
    """
    takes = TAKES.get(what, Takes())
    where = where or ("in AWS" if in_cloud else "on this machine")
    recorded = takes.recorded if in_cloud else takes.recorded | takes.used_in_aws | takes.here
    known = recorded | (takes.used_in_aws if in_cloud else frozenset())
    meant = {name: value for name, value in given.items() if value is not None}
    strange = [name for name, value in meant.items() if name not in known and value is not False]
    if strange:
        raise ConfigurationError(
            f"{what}: {', '.join(sorted(strange))} is not supported {where}, and may change the result; leave "
            "it out (docs/notebook.md lists what is supported)"
        )
    kept = {name: str(value) for name, value in meant.items() if name in recorded}
    new = sorted(name for name in kept if name not in _told and meant[name] is not False)
    if new:
        _told.update(new)
        tell(f"Recorded, without effect {where}: {', '.join(new)}")
    return kept


def tell(text: str) -> None:
    """Print a line for the reader of the notebook."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
