"""A training script with one bottleneck planted in it, or with the advice against it applied.

    python benchmarks/bottleneck_script.py PLANT [--advised] [--value N] --folder IMAGES

It is an ordinary script: nothing in it knows of the profiler.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

CLASSES = 10
# Whether networks compute in bfloat16, as they should where that is faster.
_bf16 = False


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Image files, decoded and transformed as torchvision's users do it."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], torch.Tensor], length: int) -> None:
        self.paths, self.transform, self.length = paths, transform, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index % len(self.paths)]) as image:
            return self.transform(image.convert("RGB")), index % CLASSES


class Waiting(Dataset[tuple[torch.Tensor, int]]):
    """Samples that come after a wait, as from a slow disk or a network."""

    def __init__(self, seconds: float, length: int, side: int = 32) -> None:
        self.seconds, self.length = seconds, length
        self.image = torch.rand(3, side, side)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.seconds:
            time.sleep(self.seconds)
        return self.image, index % CLASSES


def convolutions(width: int = 16, depth: int = 2) -> nn.Module:
    layers: list[nn.Module] = []
    for place in range(depth):
        layers += [nn.Conv2d(width if place else 3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, CLASSES)).to(
        memory_format=torch.channels_last
    )


def pooled(side: int = 8) -> nn.Module:
    """A network that costs next to nothing, so that loading is what takes the time."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(3 * side * side, CLASSES))


class Shares(nn.Module):
    """Bytes to numbers from 0 to 1."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().div(255)


def in_memory(count: int, side: int = 32) -> TensorDataset:
    return TensorDataset(torch.rand(count, 3, side, side), torch.arange(count) % CLASSES)


def train(
    model: nn.Module,
    loader: DataLoader,  # type: ignore[type-arg]
    epochs: int,
    *,
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    after_step: Callable[[int, nn.Module, torch.Tensor], None] | None = None,
    lr: float = 1e-3,
) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr)
    criterion = loss_function or nn.CrossEntropyLoss()
    step = 0
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            if images.ndim == 4:
                images = images.to(memory_format=torch.channels_last)
            with autocast():
                loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if after_step is not None:
                after_step(step, model, loss)


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=_bf16)


def python_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy, and beside it a confidence penalty written as a loop over numbers."""
    penalty = 0.0
    for row in logits.detach().float().tolist() * 400:
        penalty += sum(math.exp(min(value, 5.0)) * math.sin(value) for value in row)
    return nn.functional.cross_entropy(logits, labels) + 0.0 * penalty


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plant")
    parser.add_argument("--advised", action="store_true")
    parser.add_argument("--value", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 whatever gains by it")
    given = parser.parse_args()
    torch.manual_seed(0)
    global _bf16
    _bf16 = given.bf16 and given.plant not in SMALL
    PLANTS[given.plant](given.advised, given.value, given.folder, given.scale)


def no_workers(advised: bool, value: int, folder: Path, scale: float) -> None:
    data = Files(sorted((folder / "photos").iterdir()), photo_transform(176), int(960 * scale))
    train(convolutions(8, 1), DataLoader(data, 16, num_workers=value if advised else 0), 2)


def sleep(advised: bool, value: int, folder: Path, scale: float) -> None:
    train(convolutions(24), DataLoader(Waiting(0.004, int(640 * scale)), 16, num_workers=value if advised else 0), 2)


def slow_decode(advised: bool, value: int, folder: Path, scale: float) -> None:
    paths = sorted((folder / "large").iterdir())
    # Bytes, so that decoding is what loading consists of.
    crop = transforms.Compose([transforms.CenterCrop(320), transforms.PILToTensor()])
    length = int(320 * scale)
    data: Dataset[tuple[torch.Tensor, int]] = Files(paths, crop, length)
    if advised:  # decoded once, kept as bytes of the size that is trained on
        kept = [_array(path, crop) for path in paths]
        data = Decoded(kept, length)
    train(nn.Sequential(Shares(), pooled()), DataLoader(data, 16, num_workers=1), 2)


def huge_images(advised: bool, value: int, folder: Path, scale: float) -> None:
    side = value if advised else 0
    paths = sorted((folder / "huge").iterdir())
    if side:
        paths = shrunken(paths, folder / f"huge-{side}", side)
    train(pooled(), DataLoader(Files(paths, photo_transform(224), int(480 * scale)), 16, num_workers=2), 2)


def png(advised: bool, value: int, folder: Path, scale: float) -> None:
    paths = sorted((folder / ("jpg" if advised else "png")).iterdir())
    crop = transforms.Compose([transforms.CenterCrop(320), transforms.ToTensor()])
    train(pooled(), DataLoader(Files(paths, crop, int(480 * scale)), 16, num_workers=1), 2)


def many_workers(advised: bool, value: int, folder: Path, scale: float) -> None:
    data = Waiting(0.001, int(256 * scale))
    train(convolutions(16), DataLoader(data, 16, num_workers=value if advised else 16), 6)


def slow_python(advised: bool, value: int, folder: Path, scale: float) -> None:
    loader = DataLoader(in_memory(int(3200 * scale)), 16)
    train(convolutions(16), loader, 1, loss_function=None if advised else python_loss)


def leak(advised: bool, value: int, folder: Path, scale: float) -> None:
    """Add up validation losses with their graphs, as when `no_grad` is forgotten."""
    images, labels = torch.rand(2, 3, 32, 32), torch.arange(2) % CLASSES
    total = torch.zeros(())

    def add(step: int, model: nn.Module, loss: torch.Tensor) -> None:
        nonlocal total
        with autocast():
            validation = nn.functional.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
        total = total + (validation.detach() if advised else validation)

    train(convolutions(32, 3), DataLoader(in_memory(int(8000 * scale), 32), 16), 1, after_step=add)


def tiny_batch(advised: bool, value: int, folder: Path, scale: float) -> None:
    data = in_memory(int(4000 * scale))
    train(convolutions(16), DataLoader(data, value if advised else 2), 2)


def checkpoints(advised: bool, value: int, folder: Path, scale: float) -> None:
    every = value if advised else 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1000), nn.ReLU(), nn.Linear(1000, CLASSES))

    def save(step: int, model: nn.Module, loss: torch.Tensor) -> None:
        if step % every == 0:
            torch.save(model.state_dict(), folder / "checkpoint.pt")

    train(model, DataLoader(in_memory(int(2400 * scale)), 16), 1, after_step=save)


def throttled(advised: bool, value: int, folder: Path, scale: float) -> None:
    group = os.environ.get("BENCHMARK_CPU_GROUP")
    if group and not advised:
        Path(group, "cgroup.procs").write_text("0")
    train(convolutions(24), DataLoader(in_memory(int(1600 * scale)), 16), 2)


def many_threads(advised: bool, value: int, folder: Path, scale: float) -> None:
    torch.set_num_threads(value if advised else 16)
    train(convolutions(24), DataLoader(in_memory(int(1600 * scale)), 16), 2)


def frozen(advised: bool, value: int, folder: Path, scale: float) -> None:
    backbone, head = convolutions(32, 3), nn.Linear(CLASSES, CLASSES)
    for parameter in backbone.parameters():
        parameter.requires_grad = False
    data: Dataset[tuple[torch.Tensor, ...]] = in_memory(int(3840 * scale))
    if not advised:
        train(nn.Sequential(backbone, head), DataLoader(data, 16), 4)
        return
    with torch.no_grad(), autocast():  # one pass, counted with the rest, as a job that caches must
        batches = (images.to(memory_format=torch.channels_last) for images, _ in DataLoader(data, 16))
        features = [backbone(images) for images in batches]
    train(head, DataLoader(TensorDataset(torch.cat(features), torch.arange(len(data)) % CLASSES), 16), 4)  # type: ignore[arg-type]


def sync(advised: bool, value: int, folder: Path, scale: float) -> None:
    """Read the loss back at every step, on a GPU that the host could keep ahead of."""
    model = convolutions(64, 8).cuda()
    images = torch.rand(64, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.arange(64, device="cuda") % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(int(2000 * scale)):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not advised or step % 50 == 0:
            loss.item()


def evaluation(advised: bool, value: int, folder: Path, scale: float) -> None:
    every = 10 if advised else 5
    valid = DataLoader(in_memory(512), 16)

    def evaluate(step: int, model: nn.Module, loss: torch.Tensor) -> None:
        if step % every:
            return
        model.eval()
        with torch.no_grad():
            for images, _ in valid:
                with autocast():
                    model(images.to(memory_format=torch.channels_last))
        model.train()

    train(convolutions(16), DataLoader(in_memory(int(3200 * scale)), 16), 1, after_step=evaluate)


def float32(advised: bool, value: int, folder: Path, scale: float) -> None:
    global _bf16
    _bf16 = _bf16 and advised
    train(convolutions(24), DataLoader(in_memory(int(1280 * scale)), 32, num_workers=1), 3)


def healthy_convolutions(advised: bool, value: int, folder: Path, scale: float) -> None:
    train(convolutions(24), DataLoader(in_memory(int(1280 * scale)), 32, num_workers=1), 3)


def healthy_tensors(advised: bool, value: int, folder: Path, scale: float) -> None:
    images, labels = torch.rand(4096, 256), torch.arange(4096) % CLASSES
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(int(6 * scale) or 1):
        for rows in torch.randperm(len(images)).split(128):
            with autocast():
                loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def healthy_transformer(advised: bool, value: int, folder: Path, scale: float) -> None:
    layer = nn.TransformerEncoderLayer(96, 4, 192, batch_first=True)
    model = nn.Sequential(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(48 * 96, CLASSES)
    )
    data = TensorDataset(torch.rand(int(1280 * scale), 48, 96), torch.arange(int(1280 * scale)) % CLASSES)
    train(model, DataLoader(data, 32), 2)


def photo_transform(side: int) -> Callable[[Image.Image], torch.Tensor]:
    made: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [transforms.Resize(side), transforms.CenterCrop(side), transforms.ToTensor()]
    )
    return made


class Decoded(Dataset[tuple[torch.Tensor, int]]):
    """Images that were decoded before."""

    def __init__(self, kept: list[torch.Tensor], length: int) -> None:
        self.kept, self.length = kept, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.kept[index % len(self.kept)], index % CLASSES


def shrunken(paths: list[Path], folder: Path, side: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for path in paths:
        with Image.open(path) as image:
            factor = side / min(image.size)
            image.resize((round(image.width * factor), round(image.height * factor))).save(
                folder / path.name, quality=92
            )
    return sorted(folder.iterdir())


def _array(path: Path, crop: Callable[[Image.Image], torch.Tensor]) -> torch.Tensor:
    with Image.open(path) as image:
        return crop(image.convert("RGB"))


def neighbour(advised: bool, value: int, folder: Path, scale: float) -> None:
    train(convolutions(24), DataLoader(in_memory(int(1600 * scale)), 16), 2)


# Networks that are too small to gain by bfloat16.
SMALL = ("checkpoints", "huge_images", "leak", "png", "slow_decode", "slow_python", "tiny_batch")
PLANTS = {
    plant.__name__: plant
    for plant in (
        checkpoints,
        evaluation,
        float32,
        frozen,
        healthy_convolutions,
        healthy_tensors,
        healthy_transformer,
        huge_images,
        leak,
        many_threads,
        many_workers,
        neighbour,
        no_workers,
        png,
        sleep,
        slow_decode,
        slow_python,
        sync,
        throttled,
        tiny_batch,
    )
}

if __name__ == "__main__":
    main()
