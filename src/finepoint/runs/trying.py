"""Measuring what changes would give a run's features pass."""

from __future__ import annotations

from finepoint.data.dataset import DataSet
from finepoint.errors import ConfigurationError
from finepoint.models.choice import BATCH
from finepoint.profiler.trying import Tried
from finepoint.runs.folder import RunFolder
from finepoint.runs.options import RunOptions
from finepoint.training.features import ImageFile
from finepoint.training.preparing import FeatureSettings
from finepoint.training.trying import try_features


def try_run(folder: RunFolder, *, steps: int = 30) -> list[Tried]:
    """Compute the features of a window of a run's training images as the run did, and with each change that applies.

    Of several backbones the first is taken.

    Args:
        folder: the run's.
        steps: batches of 8 images in the window, as far as there are so many.

    Raises:
        ConfigurationError: the window is too short.
        InputError: the run, its images or its weights are no longer there.
    """
    if steps < 2:
        raise ConfigurationError(f"steps is {steps}; a window needs at least 2")
    options = RunOptions.from_json(folder.read()["options"])
    data = DataSet.load(folder.data)
    data.require_files("train")
    images = [ImageFile(data.path_of(image), image.sha256) for image in data.part("train")[: steps * BATCH]]
    backbones, choices = FeatureSettings(**options.feature_settings()).resolve(options.seed)
    return try_features(images, backbones[0], choices[0])
