"""Pretrained weights in the hub caches of torch and Hugging Face, and their download.

torch's cache is `$TORCH_HOME/hub/checkpoints`; its file names end in the first eight digits of the file's
SHA-256, which is checked. Hugging Face's cache is what `huggingface_hub` says it is; it checks its own files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse

import httpx

from finepoint.data.preprocessing import Interpolation, Preprocessing
from finepoint.errors import WeightsError
from finepoint.files import atomic_path, sha256_of

# What torch's and Hugging Face's downloads raise: no network, no such file, a hash that is not the expected one.
_DOWNLOAD_ERRORS = (OSError, ValueError, RuntimeError, httpx.HTTPError)


@dataclass(frozen=True)
class HubFile:
    """A weights file that a hub offers: at a URL (torch), or in a repository (Hugging Face).

    Args:
        url: its address, or "".
        repository: the Hugging Face repository, or "".
        filename: the file's name in the repository or in torch's cache.
        licence: as the library states it, or "".
        preprocessing: what goes with these weights, where the library says.
    """

    url: str
    repository: str
    filename: str
    licence: str
    preprocessing: Preprocessing | None

    def describe(self) -> str:
        """Return where the file is from, in a few words.

        >>> HubFile("", "timm/resnet18.a1_in1k", "model.safetensors", "", None).describe()
        'timm/resnet18.a1_in1k'
        """
        return self.repository or self.filename

    def cached(self) -> Path | None:
        """Return the file in the hub's cache, or None."""
        if self.repository:
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(self.repository, self.filename)
            return Path(found) if isinstance(found, str) else None
        path = _torch_cache() / self.filename
        return path if path.is_file() else None


def hub_files(library: str, architecture: str) -> list[HubFile]:
    """Return the weights files published for an architecture, the recommended one first."""
    return _timm_files(architecture) if library == "timm" else _torchvision_files(architecture)


def obtain_hub_file(name: str, file: HubFile, *, others: Sequence[HubFile] = ()) -> Path:
    """Return `file` from its hub's cache, after downloading it if it is not there.

    Raises:
        WeightsError: it cannot be downloaded; the message names everything that would work.
    """
    path = file.cached()
    if path is None:
        try:
            path = _download_repository(file) if file.repository else _download_url(file)
        except _DOWNLOAD_ERRORS as error:
            raise WeightsError(_offline_message(name, file, others, error)) from error
    expected = _hash_in_name(file.filename)
    if expected and not sha256_of(path).startswith(expected):
        raise WeightsError(
            f"{path} is damaged: its SHA-256 does not begin with {expected} as its name says; delete it and run again"
        )
    return path


def _torchvision_files(architecture: str) -> list[HubFile]:
    import torchvision

    choices: Any = torchvision.models.get_model_weights(architecture)
    default = choices.DEFAULT
    ordered = [default, *(weights for weights in choices if weights is not default)]
    return [
        HubFile(
            url=weights.url,
            repository="",
            filename=Path(urlparse(weights.url).path).name,
            licence=weights.meta.get("license", ""),
            preprocessing=_torchvision_preprocessing(weights.transforms()),
        )
        for weights in ordered
        if weights.url
    ]


def _torchvision_preprocessing(transforms: Any) -> Preprocessing:
    side, resize = transforms.crop_size[0], transforms.resize_size[0]
    return Preprocessing(
        height=side,
        width=side,
        resize=max(resize, side),
        interpolation=cast(Interpolation, transforms.interpolation.value),
        mean=_triple(transforms.mean),
        std=_triple(transforms.std),
    )


def _timm_files(architecture: str) -> list[HubFile]:
    import timm.models

    configuration = timm.models.get_pretrained_cfg(architecture)
    if configuration is None:
        return []
    preprocessing = _timm_preprocessing(configuration)
    licence = str(configuration.license or "")
    files = []
    if configuration.hf_hub_id:
        repository = str(configuration.hf_hub_id)
        if repository == "timm/":
            tag = f".{configuration.tag}" if configuration.tag else ""
            repository += configuration.architecture + tag
        files.append(HubFile("", repository, "model.safetensors", licence, preprocessing))
    if configuration.url:
        filename = Path(urlparse(configuration.url).path).name
        files.append(HubFile(configuration.url, "", filename, licence, preprocessing))
    return files


def _timm_preprocessing(configuration: Any) -> Preprocessing:
    _, height, width = configuration.input_size
    interpolation = configuration.interpolation
    return Preprocessing(
        height=height,
        width=width,
        resize=max(min(height, width), int(min(height, width) / configuration.crop_pct)),
        interpolation=cast(
            Interpolation, interpolation if interpolation in ("bilinear", "bicubic", "lanczos") else "bicubic"
        ),
        mean=_triple(configuration.mean),
        std=_triple(configuration.std),
    )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)


def _torch_cache() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _download_url(file: HubFile) -> Path:
    import torch

    target = _torch_cache() / file.filename
    with atomic_path(target) as temporary:
        torch.hub.download_url_to_file(file.url, str(temporary), _hash_in_name(file.filename), progress=False)
    return target


def _download_repository(file: HubFile) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(file.repository, file.filename))


def _hash_in_name(filename: str) -> str | None:
    match = re.search(r"-([0-9a-f]{8,})\.\w+$", filename)
    return match.group(1) if match else None


def _offline_message(name: str, file: HubFile, others: Sequence[HubFile], error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    accepted = sorted({other.filename for other in others if other.url})
    lines = [f"the weights of {name} ({file.describe()}) are not in a cache and cannot be downloaded: {reason}"]
    lines.append("Any of these works without a network:")
    if accepted:
        lines.append(f"  - put {' or '.join(accepted)} into {_torch_cache()} (TORCH_HOME moves it)")
    if file.repository:
        lines.append(f"  - put {file.repository} into the Hugging Face cache (HF_HOME moves it)")
    lines.append("  - --weights FILE with a .safetensors file or a state dict (.pth) of this architecture")
    lines.append("  - --backbone efficientnet_lite0, whose weights were installed with finepoint")
    lines.append("  - --weights random, to try things out; every output then says so")
    return "\n".join(lines)
