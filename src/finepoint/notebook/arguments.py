"""What becomes of the SDK's arguments here: used, recorded with one notice, or refused by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Set
from typing import Any

from finepoint.errors import ConfigurationError

# They say where and how safely a job runs in the cloud; no result depends on them.
RECORDED: frozenset[str] = frozenset(
    {
        *(
            "role",
            "instance_type",
            "py_version",
            "framework_version",
            "image_uri",
            "sagemaker_session",
            "tags",
            "bucket",
        ),
        *("use_spot_instances", "max_wait", "max_retry_attempts", "keep_alive_period_in_seconds", "accelerator_type"),
        *("volume_size", "volume_kms_key", "output_kms_key", "kms_key", "output_path", "code_location"),
        *("subnets", "security_group_ids", "encrypt_inter_container_traffic", "enable_network_isolation"),
        *("enable_sagemaker_metrics", "disable_profiler", "container_log_level", "enable_cloudwatch_metrics"),
        *("experiment_config", "disable_output_compression", "endpoint_config_name", "model_data_download_timeout"),
        "container_startup_health_check_timeout",
    }
)
_told: set[str] = set()


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
    "output_kms_key": "kms_key",
    "tags": "tags",
}
# ... and these choose the image.
VERSIONS = frozenset({"framework_version", "py_version"})


def settings_from(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine's settings that the SDK's arguments stand for.

    >>> settings_from({"volume_size": 50, "tags": [{"Key": "team", "Value": "dogs"}], "role": None})
    {'volume_gib': 50, 'tags': {'team': 'dogs'}}
    """
    found = {SETTINGS[name]: value for name, value in given.items() if name in SETTINGS and value is not None}
    if isinstance(found.get("tags"), list | tuple):
        found["tags"] = {tag["Key"]: tag["Value"] for tag in found["tags"]}
    return found


def take(
    what: str,
    given: Mapping[str, Any],
    used: Set[str] = frozenset(),
    recorded: Set[str] = RECORDED,
    in_cloud: bool = False,
) -> dict[str, str]:
    """Return the arguments that are only recorded, as text; tell of each once.

    Args:
        what: the class or method whose arguments these are.
        given: arguments that were given beyond those that are always used.
        used: those of them that have an effect here.
        recorded: those that have none, and need none.
        in_cloud: whether it is for AWS, where more have an effect.

    Raises:
        ConfigurationError: there are others; they would change the result, or are no arguments of the SDK.
    """
    where = "in AWS" if in_cloud else "on this machine"
    used = used | {"sagemaker_session"} | (set(SETTINGS) | VERSIONS if in_cloud else set())
    meant = {name: value for name, value in given.items() if value is not None}
    strange = [name for name in meant if name not in used and name not in recorded]
    if strange:
        raise ConfigurationError(
            f"{what}: {', '.join(sorted(strange))} is not supported {where}, and may change the result; leave "
            "it out (docs/notebook.md lists what is supported)"
        )
    kept = {name: str(value) for name, value in meant.items() if name in recorded and name not in used}
    new = sorted(set(kept) - _told)
    if new:
        _told.update(new)
        tell(f"Recorded, without effect {where}: {', '.join(new)}")
    return kept


def tell(text: str) -> None:
    """Print a line for the reader of the notebook."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
