"""What pretrained weights expect of images, told from the statistics of their first batch norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.debugger.models import attached, recorded
from torch import Tensor, nn
from torch.nn import functional

from finepoint.debugger.rules.inputs import InputNotNormalised


def photographs(count: int) -> Tensor:
    """Images in 0..1 [count, 3, 24, 24] whose brightness differs from one to the next."""
    return (0.1 + 0.4 * torch.rand(count, 1, 1, 1) + 0.2 * torch.randn(count, 3, 24, 24)).clamp(0, 1)


def pretrained(frozen: bool) -> nn.Module:
    """A network whose batch norms remember images with 0.5 taken off and divided by it."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=None))
    stem = nn.Sequential(*first, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, momentum=None))
    stem(2 * photographs(256) - 1)
    stem.requires_grad_(not frozen)
    return nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def first_layer_facts(folder: Path, model: nn.Module, given: Tensor) -> list[dict[str, Any]]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.01)
    with attached(folder):
        for images in given.split(10):
            functional.cross_entropy(model(images), torch.arange(len(images)) % 4).backward()
            optimizer.step()
            optimizer.zero_grad()
    return recorded(folder).facts("first_layer_input")


def test_statistics_of_several_steps_together_decide(tmp_path: Path) -> None:
    facts = first_layer_facts(tmp_path, pretrained(True), photographs(60))
    assert [fact["images"] for fact in facts] == [10, 20, 30, 32]
    assert facts[-1]["fit"]["given"] > 0.35
    assert facts[-1]["fit"]["centred"] < 0.05
    result = InputNotNormalised().judge(recorded(tmp_path))
    assert result.fired and "0.5" in result.remedy


def test_images_that_fit_are_not_corrected(tmp_path: Path) -> None:
    facts = first_layer_facts(tmp_path, pretrained(True), 2 * photographs(60) - 1)
    assert list(facts[-1]["fit"]) == ["given"]
    assert InputNotNormalised().judge(recorded(tmp_path)).passed


@pytest.mark.parametrize("corrected", [False, True])
def test_a_layer_in_training_is_compared_at_the_first_step_only(tmp_path: Path, corrected: bool) -> None:
    images = photographs(60)
    facts = first_layer_facts(tmp_path, pretrained(False), 2 * images - 1 if corrected else images)
    assert {fact["images"] for fact in facts} == {10}
    assert InputNotNormalised().judge(recorded(tmp_path)).fired is not corrected
