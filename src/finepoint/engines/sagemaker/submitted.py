"""Jobs and studies that were submitted to AWS, met again by a later process: waited for, stopped, their log read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finepoint.engines.local import Watcher
from finepoint.engines.records import JobFolder, tuning_name
from finepoint.engines.sagemaker import training, tuning
from finepoint.engines.sagemaker.cloud import is_missing
from finepoint.engines.sagemaker.training import SageMakerEngine
from finepoint.errors import CloudError, JobError

_NEVER_BEGUN = "AWS has no such job: the command that was to begin it was interrupted; the same command begins it"


def wait(folder: Path, watcher: Watcher) -> dict[str, Any]:
    """Follow a job or a study to its end, bring its results home, and return its record.

    An interrupt (Ctrl-C) leaves it running: whoever waits did not start it.
    """
    record = JobFolder(folder).read()
    if record["status"] != "InProgress":
        return record
    engine, spec = SageMakerEngine.of(folder), JobFolder(folder).spec()
    try:
        if tuning_name(folder):
            tuning.finish(engine, folder, spec, watcher)
        else:
            engine.collect(folder, spec, watcher, stopping=False)
    except JobError:
        pass  # the record says so
    except CloudError as error:
        if not is_missing(error):
            raise
        JobFolder(folder).finish("Failed", failure=_NEVER_BEGUN)
    return JobFolder(folder).read()


def stop(folder: Path) -> None:
    """Tell a job or a study to stop; nothing where it has ended."""
    engine = SageMakerEngine.of(folder)
    if tuning_name(folder):
        tuning.stop(engine, folder)
    else:
        training.stop(engine.cloud, folder)


def bring_log(folder: Path) -> None:
    """Bring the log of a job or a study up to date in its folder."""
    if JobFolder(folder).read()["status"] != "InProgress":
        return
    if tuning_name(folder):
        tuning.look(SageMakerEngine.of(folder), folder)
    else:
        training.bring_log(folder)
