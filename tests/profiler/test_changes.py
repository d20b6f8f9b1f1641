"""Changes that are made to a script from outside do what they are named for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from finepoint.files import read_json
from finepoint.profiler import changes


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", Image.open)  # put back afterwards
    for name in ("large.jpg", "large.png"):
        Image.new("RGB", (1600, 1200)).save(tmp_path / name)
    changes._draft(300)
    with Image.open(tmp_path / "large.jpg") as image:
        assert image.size == (400, 300)
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (1600, 1200)


def test_convolutions_and_their_images_are_turned_to_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "__call__", nn.Module.__call__)
    seen: list[bool] = []
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    network[0].register_forward_hook(
        lambda module, args, output: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    images = torch.rand(2, 3, 8, 8)
    before = network(images)
    changes._channels_last()
    after = network(images)
    assert seen == [False, True]
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(before, after)


def test_the_outermost_module_computes_in_bfloat16_and_answers_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "__call__", nn.Module.__call__)
    seen: list[torch.dtype] = []
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    network[1].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    changes._autocast()
    answer = network(torch.rand(2, 4))
    assert seen == [torch.bfloat16]
    assert answer.dtype is torch.float32
    assert network[0].weight.dtype is torch.float32


@pytest.mark.parametrize("form", ["tuple", "mapping"])
def test_a_window_notes_the_batch_whatever_form_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    window = changes._Window(tmp_path / "window.json", 2)
    images, labels = torch.rand(6, 3), torch.zeros(6)
    window._sized(None, (images, labels) if form == "tuple" else {"image": images, "label": labels}, 0.0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    for loss in (3.0, 2.0, 1.0):
        window._loss(torch.tensor(loss))
        window._step(optimizer)
    assert ended == [0]
    written = read_json(tmp_path / "window.json")
    assert (written["batch_size"], written["losses"], len(written["seconds"])) == (6, [3.0, 2.0, 1.0], 2)
