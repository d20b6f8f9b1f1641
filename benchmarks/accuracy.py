"""How good the default way is on images that nobody used, and what the backbone's stages and our head add.

The images are divided anew several times: a part is set aside, our 20 trials choose by the loss on a second part,
and the best head is judged on the first. A converged logistic regression on the same features stands beside it.

    python benchmarks/accuracy.py --data FOLDER [--quick] [--json]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from finepoint.data.digits import make_digits
from finepoint.models.backbones import resolve_backbones
from finepoint.models.choice import choose_runtime
from finepoint.training.channels import FeatureCount, embed_channel, read_channel
from finepoint.training.hyperparameters import Hyperparameters
from finepoint.training.loop import TrainedHead, TrainingData, train_head
from finepoint.tuning.parameters import DEFAULT_SPACE
from finepoint.tuning.study import StudySpec, Trial, run_study
from reporting import Goal, parser, report

_LAST = 1280  # EfficientNet-Lite0's last features come first


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="a folder of class folders or of splits; digits by default")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.data or make_digits(Path(name) / "digits")
        channel = read_channel(folder)
        (backbone,) = resolve_backbones(["efficientnet_lite0"])
        features, usable, _ = embed_channel(channel, [backbone], [choose_runtime(backbone)], FeatureCount())
        labels = np.unique([channel.labels[index] for index in usable], return_inverse=True)[1].astype(np.int64)
        ways: dict[str, Callable[[TrainingData, np.ndarray, Path], np.ndarray]] = {
            "ours": _tuned,
            "logistic regression": _logistic_regression,
        }
        found: dict[str, list[float]] = {}
        for seed in range(2 if given.quick else 8):
            for part, columns in (("last features", _LAST), ("last features and stages", features.shape[1])):
                rest, test = train_test_split(np.arange(len(labels)), test_size=0.1, stratify=labels, random_state=seed)
                train, valid = train_test_split(rest, test_size=0.1, stratify=labels[rest], random_state=seed)
                values = np.ascontiguousarray(features[:, :columns])
                sets = values[train], labels[train], values[valid], labels[valid]
                data = TrainingData(*sets, int(labels.max()) + 1, (columns,))
                for way, classify in ways.items():
                    answers = classify(data, values[test], Path(name) / f"{way}-{columns}-{seed}")
                    found.setdefault(f"{way}, {part}", []).append(float((answers == labels[test]).mean()))
    rows = [
        {
            "way": way,
            "accuracy": f"{np.mean(values):.4f}",
            "standard error": f"{np.std(values, ddof=1) / len(values) ** 0.5:.4f}",
            "divisions": len(values),
        }
        for way, values in found.items()
    ]
    goals = [Goal("accuracy of the default way", float(np.mean(found["ours, last features and stages"])), 0.88)]
    notes = f"{len(labels)} images ({given.data or 'handwritten digits'}), a tenth set aside each time"
    report("Accuracy on images that nobody used", rows, goals, as_json=given.json, notes=notes)


def _tuned(data: TrainingData, test: np.ndarray, folder: Path) -> np.ndarray:
    heads: dict[int, TrainedHead] = {}

    def run_trial(trial: Trial) -> dict[str, float]:
        values = Hyperparameters.from_mapping({**trial.hyperparameters, "seed": trial.seed})
        heads[trial.number] = train_head(data, values, on_epoch=trial.report)
        return heads[trial.number].best

    state = run_study(folder, StudySpec(DEFAULT_SPACE, max_jobs=20), run_trial)
    assert state.best is not None
    return np.asarray(heads[state.best.number].head.to_layers().logits(test).argmax(1))


def _logistic_regression(data: TrainingData, test: np.ndarray, _folder: Path) -> np.ndarray:
    scaler = StandardScaler().fit(data.train)
    model = LogisticRegression(C=0.002, max_iter=1000).fit(scaler.transform(data.train), data.train_labels)
    return np.asarray(model.predict(scaler.transform(test)))


if __name__ == "__main__":
    main()
