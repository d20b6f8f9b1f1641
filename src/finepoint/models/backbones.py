"""What a backbone is: a name, an architecture, weights, and how images are prepared for it. No torch in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finepoint.data.preprocessing import Preprocessing
from finepoint.errors import ConfigurationError
from finepoint.files import digest_of
from finepoint.models.registry import REGISTRY

RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Backbone:
    """A frozen backbone, fully described.

    Args:
        name: as the user typed it.
        library: `timm` or `torchvision`.
        architecture: its name in that library.
        weights_sha256: of the file the weights came from (of the tensors, for random weights).
        weights_source: where that was: a distribution, a file's name, a hub's file, or `random`.
        licence: of the weights, or "".
        preprocessing: how an image becomes the backbone's input.
        stages: submodules whose outputs' spatial averages stand beside the last features.
    """

    name: str
    library: str
    architecture: str
    weights_sha256: str
    weights_source: str
    licence: str
    preprocessing: Preprocessing
    stages: tuple[str, ...] = ()

    @property
    def random(self) -> bool:
        """Whether the weights are random, so that its features mean little."""
        return self.weights_source == RANDOM

    @property
    def digest(self) -> str:
        """Return what identifies the backbone's output: equal digests give equal features on one runtime."""
        return digest_of(
            {
                "library": self.library,
                "architecture": self.architecture,
                "weights_sha256": self.weights_sha256,
                "preprocessing": self.preprocessing.to_json(),
                "stages": list(self.stages),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with a key per field."""
        return {**asdict(self), "preprocessing": self.preprocessing.to_json(), "stages": list(self.stages)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Backbone:
        """Return the backbone that `to_json` wrote."""
        preprocessing = Preprocessing.from_json(value["preprocessing"])
        return cls(**{**value, "preprocessing": preprocessing, "stages": tuple(value["stages"])})


def resolve_backbones(
    names: Sequence[str], weights: Sequence[str] = (), *, seed: int = 0, crop: int | None = None
) -> tuple[Backbone, ...]:
    """Return the backbones of these names, their weights found, checked and stored in the cache.

    Args:
        names: one or several backbones whose features stand side by side.
        weights: nothing (pretrained ones), or one entry for each name: `random`, or a path of safetensors
            or of a state dict.
        seed: of random weights.
        crop: side of the square input in pixels, instead of the backbone's own.

    Raises:
        ConfigurationError: a name that no library knows, named twice, or too few or many weights.
        WeightsError: the weights are not to be had here or do not fit.
    """
    from finepoint.models.weights import obtain_weights

    if weights and len(weights) != len(names):
        raise ConfigurationError(
            f"{len(names)} backbones ({', '.join(names)}) but {len(weights)} weights; give one --weights for each"
        )
    if len(set(names)) != len(names):
        raise ConfigurationError(f"a backbone is named twice in {', '.join(names)}; name each once")
    found = []
    for index, name in enumerate(names):
        given = weights[index] if weights else None
        backbone = obtain_weights(name, given, seed=seed)
        if crop is not None:
            backbone = replace(backbone, preprocessing=_resized(backbone.preprocessing, crop))
        found.append(backbone)
    return tuple(found)


def suggest_names(name: str) -> list[str]:
    """Return known backbone names that look like `name`.

    >>> "efficientnet_lite0" in suggest_names("efficientnet_light0")
    True
    """
    import difflib

    import timm
    import torchvision

    known = [*REGISTRY, *torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
    return difflib.get_close_matches(name, known, n=5, cutoff=0.5)


def weights_path(backbone: Backbone) -> Path:
    """Return where the cache keeps the backbone's tensors, as safetensors named as its architecture names them."""
    from finepoint.files import cache_dir

    key = digest_of(
        {
            "library": backbone.library,
            "architecture": backbone.architecture,
            "weights_sha256": backbone.weights_sha256,
        }
    )
    return cache_dir() / "weights" / f"{key}.safetensors"


def _resized(preprocessing: Preprocessing, side: int) -> Preprocessing:
    resize = round(preprocessing.resize * side / preprocessing.height)
    return replace(preprocessing, height=side, width=side, resize=max(side, resize))
