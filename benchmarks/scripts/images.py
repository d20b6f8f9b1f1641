"""Small images to learn from: scikit-learn's digits, and made-up photographs of gratings."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Of the made-up images in [0, 1]; near those of photographs, and unequal, so that the order of channels matters.
MEAN, STD = (0.52, 0.45, 0.36), (0.24, 0.21, 0.18)
GRATING_CLASSES, DIGIT_CLASSES = 8, 10


@dataclass
class Images:
    """Images [n, c, h, w] in [0, 1] with labels [n]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def gratings(count: int, size: int, seed: int) -> Images:
    """Return images whose class is the orientation of a grating, of random colour, phase and contrast, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % GRATING_CLASSES
    labels = labels[torch.randperm(count, generator=generator)]
    angle = labels * (math.pi / GRATING_CLASSES) + 0.06 * torch.randn(count, generator=generator)
    phase = 2 * math.pi * torch.rand(count, generator=generator)
    wavelength = 5 + 2 * torch.rand(count, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    along = rows * torch.sin(angle)[:, None, None] + columns * torch.cos(angle)[:, None, None]
    wave = torch.sin(2 * math.pi * along / wavelength[:, None, None] + phase[:, None, None])
    colour = 0.5 + torch.rand(count, 3, 1, 1, generator=generator)
    noise = torch.randn(count, 3, size, size, generator=generator)
    shade = 0.5 * torch.randn(count, 3, 1, 1, generator=generator)
    values = 0.7 * colour * wave[:, None] + 0.6 * noise + shade
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return Images((mean + std * values).clamp(0, 1), labels)


@functools.cache
def digits() -> Images:
    """Return scikit-learn's 1,797 handwritten digits of 8 × 8, grey."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return Images(pixels[order], torch.tensor(loaded.target)[order])


def part(images: Images, start: int, count: int) -> Images:
    """Return some of the images."""
    return Images(images.pixels[start : start + count].clone(), images.labels[start : start + count].clone())
