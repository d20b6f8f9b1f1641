"""The five models of the catalogue."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet


class PlainCnn(nn.Module):
    """Convolutions with ReLU and without normalisation."""

    def __init__(self, channels: int, classes: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), activation(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), activation(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(128, 64), activation(), nn.Linear(64, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class NormalisedCnn(nn.Module):
    """Convolutions with batch normalisation, and dropout before the last layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = [channels, 16, 32, 48]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.features(images)))


class SmallVit(nn.Module):
    """A vision transformer of two layers on patches of 4 × 4."""

    def __init__(self, channels: int, size: int, classes: int, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, stride=4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // 4) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.encoder(tokens)[:, 0]))


def mlp(inputs: int, classes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a perceptron of two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 96), activation(), nn.Linear(96, 48), activation(), nn.Linear(48, classes)
    )


def small_resnet(classes: int) -> ResNet:
    """Return a ResNet as ResNet-50 is made, with one narrow block in each of its four stages."""
    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=classes, width_per_group=8)


def with_new_head(resnet: ResNet, hidden: int, classes: int) -> ResNet:
    """Freeze a ResNet and give it a perceptron for a head."""
    for parameter in resnet.parameters():
        parameter.requires_grad = False
    resnet.fc = nn.Sequential(
        nn.Linear(resnet.fc.in_features, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, classes)
    )
    return resnet
