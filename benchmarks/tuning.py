"""Our 20 trials, embedding included, against the customary forward pass per image, epoch and trial.

The customary recipe is timed on a subset, and what it would take is extrapolated from that.

    python benchmarks/tuning.py [--data FOLDER] [--quick] [--json]
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from customary import images_per_second
from features import fresh_cache
from finepoint.files import cache_dir, sha256_of
from finepoint.models.backbones import resolve_backbones
from finepoint.models.choice import choose_runtime
from finepoint.training.features import ImageFile, embed
from finepoint.training.hyperparameters import Hyperparameters
from finepoint.training.loop import TrainingData, train_head
from finepoint.tuning.parameters import DEFAULT_SPACE
from finepoint.tuning.study import StudySpec, Trial, run_study
from photographs import photographs
from reporting import Goal, parser, report

TRIALS = 20


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="a folder of images; by default made-up photographs")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, shared = Path(name), cache_dir()
        paths = photographs(given.data, folder, 256 if given.quick else 1024)
        (backbone,) = resolve_backbones(["efficientnet_lite0"])
        choice = choose_runtime(backbone)
        os.environ["FINEPOINT_CACHE"] = str(fresh_cache(folder / "cache", shared))
        images = [ImageFile(path, sha256_of(path)) for path in paths]

        start = time.perf_counter()
        features = embed(images, backbone, choice).features
        embedded = time.perf_counter() - start
        names = sorted({path.parent.name for path in paths})
        labels = np.array([names.index(path.parent.name) for path in paths])
        valid = np.arange(len(labels)) % 10 == 0
        data = TrainingData(
            features[~valid], labels[~valid], features[valid], labels[valid], len(names), (features.shape[1],)
        )
        passes = 0

        def run_trial(trial: Trial) -> dict[str, float]:
            nonlocal passes
            values = Hyperparameters.from_mapping({**trial.hyperparameters, "seed": trial.seed})
            trained = train_head(data, values, on_epoch=trial.report)
            passes += len(trained.epochs)
            return trained.best

        run_study(folder / "study", StudySpec(DEFAULT_SPACE, max_jobs=TRIALS), run_trial)
        ours = time.perf_counter() - start

        subset = paths[: 192 if given.quick else 256]
        speed = images_per_second(subset, backbone, channels_last=False)
        customary = len(paths) * passes / speed
        rows = [
            {"way": f"ours: embed once, {TRIALS} trials on features", "seconds": f"{ours:.1f}"},
            {"way": "  of which embedding", "seconds": f"{embedded:.1f}"},
            {"way": f"customary: {passes} passes over the images", "seconds": f"{customary:.0f} (extrapolated)"},
        ]
        notes = (
            f"{len(paths)} images ({given.data or 'made up'}); the customary recipe was timed on "
            f"{len(subset)} of them, {speed:.1f} images a second, and extrapolated to {passes} epochs"
        )
        goals = [Goal("customary tuning against ours", customary / ours, 100)]
        report("Tuning a head on EfficientNet-Lite0", rows, goals, as_json=given.json, notes=notes)


if __name__ == "__main__":
    main()
