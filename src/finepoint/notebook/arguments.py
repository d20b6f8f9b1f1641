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
        *("container_startup_health_check_timeout", "bucket"),
    }
)
_told: set[str] = set()


def take(
    what: str, given: Mapping[str, Any], used: Set[str] = frozenset(), recorded: Set[str] = RECORDED
) -> dict[str, str]:
    """Return the arguments that are only recorded, as text; tell of each once.

    Args:
        what: the class or method whose arguments these are.
        given: arguments that were given beyond those that are always used.
        used: those of them that have an effect here.
        recorded: those that have none, and need none.

    Raises:
        ConfigurationError: there are others; they would change the result, or are no arguments of the SDK.
    """
    meant = {name: value for name, value in given.items() if value is not None}
    strange = [name for name in meant if name not in used and name not in recorded]
    if strange:
        raise ConfigurationError(
            f"{what}: {', '.join(sorted(strange))} is not supported on this machine, and may change the result; leave "
            "it out (docs/notebook.md lists what is supported)"
        )
    kept = {name: str(value) for name, value in meant.items() if name in recorded and name not in used}
    new = sorted(set(kept) - _told)
    if new:
        _told.update(new)
        tell(f"Recorded, without effect on this machine: {', '.join(new)}")
    return kept


def tell(text: str) -> None:
    """Print a line for the reader of the notebook."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
