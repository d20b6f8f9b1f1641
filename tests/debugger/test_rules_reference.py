"""A script in the style of a well-known solution, with its faults: each is named, and none when they are mended."""

from __future__ import annotations

import colorsys
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPT = """
import argparse
import os

import smdebug.pytorch as smd
import torch
import torch.nn as nn
import torch.optim as optim
import torchvision.models as models
import torchvision.transforms as transforms
from torchvision.datasets import ImageFolder


def test(model, loader, criterion, hook):
    model.eval()
    hook.set_mode(smd.modes.EVAL)
    running_loss, corrects = 0, 0
    with torch.no_grad():
        for inputs, labels in loader:
            outputs = model(inputs)
            running_loss += criterion(outputs, labels).item() * inputs.size(0)
            corrects += (outputs.argmax(1) == labels).sum().item()
    count = len(loader.dataset)
    print(f"Test Loss: {running_loss / count:.4f}, Accuracy: {100 * corrects / count:.1f}%")


def train(model, train_loader, test_loader, criterion, optimizer, args, hook):
    for epoch in range(args.epochs):
        hook.set_mode(smd.modes.TRAIN)
        model.train()
        if args.backbone_eval:
            model.eval()
            model.fc.train()
        for inputs, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
        test(model, test_loader, criterion, hook)


def net(args, classes):
    model = getattr(models, args.arch)(weights=None)
    for param in model.parameters():
        param.requires_grad = False
    head = [nn.Linear(model.fc.in_features, 256), nn.ReLU(inplace=True), nn.Linear(256, classes)]
    if not args.logits:
        head.append(nn.ReLU(inplace=True))
    model.fc = nn.Sequential(*head)
    return model


def loaders(args):
    crop = [transforms.RandomResizedCrop(args.size), transforms.ToTensor()]
    fixed = [transforms.Resize(args.size), transforms.CenterCrop(args.size), transforms.ToTensor()]
    normal = [transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])] if args.normalise else []
    train_set = ImageFolder(os.path.join(args.data, "train"), transforms.Compose(crop + normal))
    evaluate = transforms.Compose((fixed if args.fixed_evaluation else crop) + normal)
    test_set = ImageFolder(os.path.join(args.data, "valid"), evaluate)
    train_loader = torch.utils.data.DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    return train_loader, torch.utils.data.DataLoader(test_set, batch_size=args.batch_size), len(train_set.classes)


def main(args):
    torch.manual_seed(0)
    train_loader, test_loader, classes = loaders(args)
    model = net(args, classes)
    hook = smd.Hook.create_from_json_file()
    hook.register_module(model)
    criterion = nn.CrossEntropyLoss()
    hook.register_loss(criterion)
    optimizer = optim.Adam(model.fc.parameters(), lr=args.lr)
    train(model, train_loader, test_loader, criterion, optimizer, args, hook)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.05)
    for remedy in ("logits", "normalise", "backbone-eval", "fixed-evaluation"):
        parser.add_argument(f"--{remedy}", action="store_true")
    main(parser.parse_args())
"""
NAMED = {"ActivationOnLogits", "InputNotNormalised", "FrozenBatchNormDrift", "RandomEvaluation"}
# What else is so at a learning rate of 0.05 with a ReLU on the logits: units die, and with them the gradients.
ALSO_TRUE = {"DeadRelu", "LearningRateTooHigh", "LossNotDecreasing", "VanishingGradient", "WeightUpdateRatio"}
STEPS_AN_EPOCH = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of colours: 80 images to train on, 20 to evaluate."""
    root = tmp_path_factory.mktemp("reference")
    generator = np.random.default_rng(0)
    for part, count in (("train", 80), ("valid", 20)):
        for number in range(count):
            label = number % 10
            colour = 255 * np.array(colorsys.hsv_to_rgb(label / 10, 0.7, 0.7)) + generator.normal(0, 10, 3)
            pixels = np.clip(colour + generator.normal(0, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
            (root / part / f"class{label}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / part / f"class{label}" / f"{number}.png")
    (root / "train.py").write_text(SCRIPT)
    return root


def findings(folder: Path, *arguments: str) -> tuple[dict[str, dict[str, Any]], float]:
    """Run the script under the debugger; return what its rules found, and the last accuracy."""
    job = folder / f"job{len(list(folder.glob('job*')))}"
    script = ["--data", str(folder), "--arch", "resnet18", "--size", "32", "--epochs", "2", *arguments]
    command = [sys.executable, "-c", "from finepoint.cli import main; main()", "debug", "run", str(folder / "train.py")]
    # So few and short steps would hardly be saved within 3 % of their time.
    command += ["--json", "--job", str(job), "--budget", "1.0", "--", *script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = [line for line in (job / "logs.txt").read_text().splitlines() if "Accuracy" in line][-1]
    accuracy = float(last.split("Accuracy: ")[1].rstrip("%"))
    found = {item["rule"]: item for item in json.loads(done.stdout)["findings"]}
    return {name: item for name, item in found.items() if item["status"] == "IssuesFound"}, accuracy


@pytest.mark.slow
def test_the_faults_of_the_reference_script_are_named_and_go_away_with_their_remedies(folder: Path) -> None:
    faulty, before = findings(folder)
    assert NAMED <= set(faulty) <= NAMED | ALSO_TRUE
    for name in NAMED - {"RandomEvaluation"}:
        assert faulty[name]["first_step"] < STEPS_AN_EPOCH
    # The second batch of evaluation is the last of the first pass.
    assert faulty["RandomEvaluation"]["first_step"] < 2
    remedies = ["--logits", "--normalise", "--backbone-eval", "--fixed-evaluation", "--lr", "0.002"]
    mended, after = findings(folder, *remedies)
    assert mended == {}
    assert after > before
