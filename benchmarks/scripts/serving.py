"""Serving scripts: some that build the head that was trained, some that do not."""

from __future__ import annotations

from pathlib import Path

from scripts.fault import Fault
from scripts.parts import Parts

_FITTING = {
    "frozen_resnet": "model.fc = nn.Sequential(nn.Linear(2048, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 8))",
    "cnn_bn": "model.classifier = nn.Linear(48, 8)",
    "plain_cnn": "model.classifier = nn.Sequential(nn.Linear(128, 64), ACTIVATION(), nn.Linear(64, 8))",
    "vit": "model.head = nn.Linear(in_features=48, out_features=8)",
    "perceptron": "",
}
_OTHER = {
    "other_width": {
        "frozen_resnet": "HIDDEN = 128\n    model.fc = nn.Sequential(\n        nn.Linear(2048, HIDDEN), nn.ReLU(), "
        "nn.Dropout(0.1), nn.Linear(HIDDEN, 8)\n    )",
        "cnn_bn": "model.classifier = nn.Linear(48, 10)",
        "plain_cnn": "model.classifier = nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 8))",
        "vit": "model.head = nn.Linear(48, 9)",
    },
    "other_layers": {
        "frozen_resnet": "model.fc = nn.Sequential(nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 8), nn.ReLU())",
        "cnn_bn": "model.classifier = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 8))",
        "plain_cnn": "model.classifier = nn.Linear(128, 8)",
        "vit": "model.head = nn.Sequential(nn.Linear(48, 8), nn.Softmax(-1))",
    },
}


def _nothing(parts: Parts) -> None:
    """The training is healthy; what serves it is not."""


SERVING = tuple(
    Fault(name, "TrainServeSkew", _nothing, ("frozen_resnet", "cnn_bn", "plain_cnn", "vit")) for name in _OTHER
)


def write_serving_script(folder: Path, script: str, fault: str, activation: str = "nn.ReLU") -> Path:
    """Write a serving script for one of the training scripts; one that fits it unless the fault is another head."""
    head = _OTHER[fault][script] if fault in _OTHER else _FITTING[script].replace("ACTIVATION", activation)
    path = folder / "inference.py"
    path.write_text(
        f"from torch import nn\n\n\ndef model_fn(model_dir):\n    model = build()\n    {head}\n    return model\n"
    )
    return path
