from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finepoint.errors import ConfigurationError, DataError, PackageError
from finepoint.evaluation.unknown import fit_reference
from finepoint.models.backbones import resolve_backbones
from finepoint.models.building import Reference, build_package, read_head
from finepoint.models.choice import Choice
from finepoint.models.classifier import load_classifier
from finepoint.models.graphs import HeadLayers, backbone_graph
from finepoint.models.package import open_package, pack
from finepoint.models.runtimes import OnnxRuntime, OpenVinoRuntime, TorchRuntime

WIDTH = 1280 + 112 + 192 + 320  # the last features of a Lite backbone, and its last three stages
CLASSES = ("124.Poodle", "<script>alert(1)</script>", "größe")


def make_package(
    folder: Path, names: tuple[str, ...] = ("efficientnet_lite0",), reference: Reference | None = None
) -> HeadLayers:
    backbones = resolve_backbones(names)
    width = WIDTH * len(names)
    generator = np.random.default_rng(0)
    head = HeadLayers(
        np.zeros(width, np.float32),
        np.full(width, 0.9, np.float32),
        (
            (generator.normal(0, 0.05, (16, width)).astype(np.float32), np.zeros(16, np.float32)),
            (generator.normal(0, 0.5, (3, 16)).astype(np.float32), np.ones(3, np.float32)),
        ),
    )
    build_package(
        folder,
        backbones=backbones,
        choices=[Choice("openvino", "f32", "", {})] * len(names),
        head=head,
        classes=CLASSES,
        temperature=1.5,
        metrics={"valid_loss": 0.5},
        provenance={"seed": 0},
        reference=reference,
    )
    return head


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "model"
    make_package(folder)
    return folder


def crops(side: int = 224, count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_every_runtime_gives_the_features_that_torch_gives() -> None:
    (backbone,) = resolve_backbones(["efficientnet_lite0"])
    graph = backbone_graph(backbone)
    images = crops()
    expected = TorchRuntime(backbone, "cpu")([images], ["features", "feature_map"])
    for runtime in (OpenVinoRuntime(graph), OpenVinoRuntime(graph, throughput=True), OnnxRuntime(graph)):
        found = runtime([images], ["features", "feature_map"])
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=2e-4)
        streamed = dict(runtime.stream(((n, [images[n : n + 1]]) for n in range(3)), ["features"]))
        together = np.concatenate([streamed[n]["features"] for n in range(3)])
        np.testing.assert_array_equal(together, found["features"])  # the same bits for every batch size


def test_the_graph_normalises_as_the_description_says() -> None:
    (backbone,) = resolve_backbones(["efficientnet_lite0"])
    from finepoint.models.weights import load_network

    images = crops(count=2)
    network = load_network(backbone)
    pixels = torch.from_numpy(np.stack([backbone.preprocessing.normalised(image) for image in images]))
    with torch.no_grad():
        expected, _ = network.extract(pixels)
    found = OnnxRuntime(backbone_graph(backbone))([images], ["features"])["features"]
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-4)


def test_stages_are_the_averages_of_what_those_submodules_give() -> None:
    (backbone,) = resolve_backbones(["efficientnet_lite0"])
    from finepoint.models.weights import load_network

    images = crops(count=2)
    pixels = torch.from_numpy(np.stack([backbone.preprocessing.normalised(image) for image in images]))
    module: Any = load_network(backbone).module
    with torch.no_grad():
        values, expected = module.bn1(module.conv_stem(pixels)), []
        for number, block in enumerate(module.blocks):
            values = block(values)
            if f"blocks.{number}" in backbone.stages:
                expected.append(values.mean((2, 3)))
    found = OpenVinoRuntime(backbone_graph(backbone))([images], ["features"])["features"][:, 1280:]
    np.testing.assert_allclose(found, torch.cat(expected, 1).numpy(), atol=2e-4)


def test_a_loaded_classifier_gives_the_heads_logits_on_both_runtimes(package: Path) -> None:
    head = read_head(package)
    images = crops()
    for runtime in ("openvino", "onnxruntime"):
        classifier = load_classifier(package, runtime=runtime)
        outputs = classifier.outputs([images])
        np.testing.assert_allclose(outputs.logits, head.logits(outputs.features), atol=1e-4)
        assert outputs.feature_map is not None
        assert outputs.feature_map.shape == (3, 1280, 7, 7)
        np.testing.assert_allclose(outputs.feature_map.mean(axis=(2, 3)), outputs.features[:, :1280], atol=1e-4)
        assert classifier.classes == CLASSES


def test_several_backbones_stand_side_by_side(tmp_path: Path) -> None:
    head = make_package(tmp_path / "model", ("efficientnet_lite0", "efficientnet_lite1"))
    classifier = load_classifier(tmp_path / "model")
    images = [crops(224), crops(240)]
    outputs = classifier.outputs(images)
    assert outputs.features.shape == (3, 2 * WIDTH)
    np.testing.assert_allclose(outputs.logits, head.logits(outputs.features), atol=1e-4)
    alone = OpenVinoRuntime(backbone_graph(resolve_backbones(["efficientnet_lite1"])[0]))
    np.testing.assert_allclose(outputs.features[:, WIDTH:], alone([images[1]], ["features"])["features"], atol=1e-4)


def test_the_same_content_packs_to_the_same_bytes(package: Path, tmp_path: Path) -> None:
    make_package(tmp_path / "again")
    assert pack(package, tmp_path / "a.tar.gz") == pack(tmp_path / "again", tmp_path / "b.tar.gz")


def test_a_package_holds_no_path_of_this_machine(package: Path) -> None:
    home = str(Path.home()).encode()
    for path in package.rglob("*"):
        if path.is_file() and path.suffix != ".py":
            assert home not in path.read_bytes(), path
            assert str(Path.cwd()).encode() not in path.read_bytes(), path


def test_an_archive_is_opened_once_and_answers(package: Path, tmp_path: Path) -> None:
    pack(package, tmp_path / "model.tar.gz")
    assert open_package(tmp_path / "model.tar.gz") == open_package(tmp_path / "model.tar.gz")
    answer = load_classifier(tmp_path / "model.tar.gz").predict(_png())
    assert set(answer.probabilities) == set(CLASSES)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert next(iter(answer.probabilities)) == answer.label
    with pytest.raises(DataError, match="not a usable image"):
        (tmp_path / "x.jpg").write_text("no")
        load_classifier(tmp_path / "model.tar.gz").predict(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink", "hardlink", "device"])
def test_archives_cannot_escape(package: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "evil.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        archive.add(package / "finepoint.json", "finepoint.json")
        entry = tarfile.TarInfo({"parent": "../../escaped", "absolute": str(tmp_path / "escaped")}.get(kind, "link"))
        entry.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}.get(
            kind, tarfile.REGTYPE
        )
        entry.linkname = "/etc/passwd"
        archive.addfile(entry, io.BytesIO(b""))
    with pytest.raises(PackageError, match="refused"):
        open_package(target)
    assert not (tmp_path / "escaped").exists()


def test_damaged_packages_are_refused_with_the_reason(package: Path, tmp_path: Path) -> None:
    whole = tmp_path / "model.tar.gz"
    pack(package, whole)
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:100_000])
    (tmp_path / "text.tar.gz").write_text("hello")
    for name in ("cut.tar.gz", "text.tar.gz"):
        with pytest.raises(PackageError, match="damaged"):
            open_package(tmp_path / name)
    with pytest.raises(PackageError, match="no such file"):
        open_package(tmp_path / "nix")
    newer = tmp_path / "newer"
    newer.mkdir()
    value = json.loads((package / "finepoint.json").read_text()) | {"schema_version": 99}
    (newer / "finepoint.json").write_text(json.dumps(value))
    with pytest.raises(PackageError, match="schema version 99"):
        open_package(newer)


def test_the_handler_for_containers_answers_from_the_package_alone(package: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(_png())
    script = f"""
import json, sys
sys.path.insert(0, {str(package / "code")!r})
import inference, finepoint
assert finepoint.__file__.startswith({str(package)!r}), finepoint.__file__
model = inference.model_fn({str(package)!r})
for body, kind in ((open({str(tmp_path / "x.png")!r}, "rb").read(), "image/png"),):
    answer, kind = inference.output_fn(inference.predict_fn(inference.input_fn(body, kind), model), "*/*")
    print(answer)
assert "torch" not in sys.modules
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FINEPOINT"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)["predictions"][0]
    ours = load_classifier(package).predict(_png())
    assert theirs["label"] == ours.label
    assert theirs["probability"] == pytest.approx(ours.probability, abs=1e-6)


def _png() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(crops(count=1)[0]).save(stream, "PNG")
    return stream.getvalue()


def test_a_package_that_says_what_it_was_trained_on_tells_unknown_images_and_an_older_one_does_not(
    package: Path, tmp_path: Path
) -> None:
    classifier = load_classifier(package)
    images = np.random.default_rng(2).integers(90, 110, (40, 224, 224, 3), dtype=np.uint8)
    outputs = classifier.outputs([images])
    reference = fit_reference(outputs.features[:30], outputs.features[30:], outputs.logits[30:])
    make_package(tmp_path / "a", reference=reference)
    make_package(tmp_path / "b", reference=reference)
    assert pack(tmp_path / "a", tmp_path / "a.tar.gz") == pack(tmp_path / "b", tmp_path / "b.tar.gz")
    telling = load_classifier(tmp_path / "a.tar.gz")
    assert telling.unknown is not None
    answer = telling.predict(_png())
    assert answer.unknown is True
    assert answer.unknown_score is not None
    assert answer.unknown_threshold == telling.unknown.threshold == reference.description["threshold"]
    assert answer.unknown_score > answer.unknown_threshold
    assert classifier.predict(_png()).unknown is None
    (tmp_path / "a" / "reference.safetensors").write_bytes(b"damaged")
    with pytest.raises(PackageError, match="damaged or missing"):
        load_classifier(tmp_path / "a")


@pytest.mark.parametrize("names", [("efficientnet_lite0",), ("efficientnet_lite0", "efficientnet_lite1")])
def test_torch_computes_a_package_as_its_graph_does(tmp_path: Path, names: tuple[str, ...]) -> None:
    from finepoint.models.torch_package import TorchPackage

    make_package(tmp_path / "model", names)
    graph = load_classifier(tmp_path / "model")
    images = [crops(side, 2) for side in (224, 240)[: len(names)]]
    outputs = graph.description["graph"]["outputs"]
    expected = graph.compute(images, outputs)
    found = TorchPackage(tmp_path / "model", graph.description, "cpu")(images, outputs)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-3, err_msg=name)


def test_a_gpu_that_is_not_there_is_refused_with_what_to_do(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="no cuda device here; leave --runtime out"):
        load_classifier(package, runtime="cuda")
