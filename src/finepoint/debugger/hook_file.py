"""The file that configures a hook: SageMaker writes `debughookconfig.json` for each training job."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finepoint.debugger.collection import Collection
from finepoint.debugger.configuration import (
    DEFAULT_INTERVAL,
    ReductionConfig,
    SaveConfig,
    SaveConfigMode,
    as_bool,
    split,
)
from finepoint.debugger.modes import ModeKeys
from finepoint.errors import ConfigurationError

VARIABLE = "SMDEBUG_CONFIG_FILE_PATH"
_SAGEMAKER_FILE = "/opt/ml/input/config/debughookconfig.json"
_SAGEMAKER_FOLDER = "/opt/ml/output/tensors"


@dataclass(frozen=True)
class HookFile:
    """What the file says, as the hook's arguments.

    Args:
        collections: with what their own parameters say.
        include_collections: their names; None where the file lists none.
    """

    out_dir: Path
    save_config: SaveConfig
    reduction_config: ReductionConfig | None = None
    include_regex: list[str] | None = None
    include_collections: list[str] | None = None
    collections: list[Collection] = field(default_factory=list)
    save_all: bool = False
    include_workers: str | None = None


def read_hook_file(path: str | Path | None = None) -> HookFile:
    """Return what a hook's file says: of the one named, or `$SMDEBUG_CONFIG_FILE_PATH`, or SageMaker's place for it.

    Raises:
        FileNotFoundError: there is none; it stays Python's own error, which scripts catch.
        ConfigurationError: it is no JSON object of this form.
    """
    place = Path(path if path is not None else os.environ.get(VARIABLE) or _SAGEMAKER_FILE)
    try:
        values = json.loads(place.read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"{place} is not valid JSON: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{place} must hold a JSON object")
    return parse_hook_file(values, place)


def parse_hook_file(values: Mapping[str, Any], place: Path | str = "the configuration") -> HookFile:
    """Return what such a JSON object says; all its values are strings.

    >>> file = parse_hook_file({"LocalPath": "out", "HookParameters": {"train.save_interval": "10"}})
    >>> file.save_config.should_save_step(ModeKeys.TRAIN, 10), file.save_config.should_save_step(ModeKeys.EVAL, 10)
    (True, False)
    """
    hook = values.get("HookParameters") or {}
    listed = values.get("CollectionConfigurations")
    mistakes, collections = [], []
    for item in listed or []:
        if "CollectionName" not in item:
            mistakes.append(f"{place}: a collection has no CollectionName")
            continue
        parameters = item.get("CollectionParameters") or {}
        collections.append(
            Collection(
                item["CollectionName"],
                split(parameters.get("include_regex", "")),
                save_config=_save_config(parameters, hook),
                reduction_config=ReductionConfig.from_dict(parameters) if "reductions" in parameters else None,
            )
        )
    if mistakes:
        raise ConfigurationError(mistakes)
    return HookFile(
        out_dir=Path(values.get("LocalPath") or _SAGEMAKER_FOLDER),
        save_config=_save_config(hook, {}),
        reduction_config=ReductionConfig.from_dict(hook) if "reductions" in hook else None,
        include_regex=split(hook["include_regex"]) if "include_regex" in hook else None,
        include_collections=None if listed is None else [collection.name for collection in collections],
        collections=collections,
        save_all=as_bool(hook.get("save_all", False)),
        include_workers=hook.get("include_workers"),
    )


def _save_config(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> SaveConfig:
    """Return when to save: a key with a mode in front beats one without, a collection's beats the hook's."""
    made: dict[ModeKeys, SaveConfigMode | None] = {}
    for mode in ModeKeys:
        found: dict[str, Any] = {}
        for source in (defaults, parameters):
            for prefix in ("", f"{mode.name.lower()}."):
                keys = ("save_interval", "start_step", "end_step", "save_steps")
                found.update({key: source[prefix + key] for key in keys if prefix + key in source})
        made[mode] = SaveConfigMode(
            found.get("save_interval", DEFAULT_INTERVAL),
            found.get("start_step", 0),
            found.get("end_step"),
            [int(step) for step in split(found.get("save_steps", ""))],
        )
    return SaveConfig(made)
