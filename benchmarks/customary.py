"""The customary way to get features: a torch DataLoader and an eager network, with as many workers as cores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from finepoint.models.backbones import Backbone
from finepoint.models.runtimes import cores
from finepoint.models.weights import load_network

_BATCH = 64


class Photographs(Dataset[torch.Tensor]):
    """Images, decoded and transformed as torchvision's users do it."""

    def __init__(self, paths: Sequence[Path], backbone: Backbone) -> None:
        self.paths = paths
        described = backbone.preprocessing
        self.transform = v2.Compose(
            [
                v2.Resize(described.resize, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
                v2.CenterCrop((described.height, described.width)),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(described.mean, described.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as picture:
            tensor: torch.Tensor = self.transform(picture.convert("RGB"))
        return tensor


def images_per_second(paths: Sequence[Path], backbone: Backbone, *, channels_last: bool) -> float:
    """Return how many images a second the customary loop embeds, its first batch not counted."""
    torch.set_num_threads(cores())
    network = load_network(backbone)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.module.to(memory_format=layout)  # type: ignore[call-overload]
    loader = DataLoader(Photographs(paths, backbone), batch_size=_BATCH, num_workers=cores())
    done, start = 0, 0.0
    with torch.inference_mode():
        for number, batch in enumerate(loader):
            network.extract(batch.to(memory_format=layout))
            if number == 0:
                start = time.perf_counter()
            else:
                done += len(batch)
    return done / (time.perf_counter() - start)
