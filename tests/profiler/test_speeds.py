"""A network's layers, built again from what was recorded of them and timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finepoint.profiler import speeds
from finepoint.profiler.network import NetworkProbe
from finepoint.profiler.speeds import speeds_of


def probed(network: nn.Module, inputs: torch.Tensor) -> dict[str, Any]:
    probe = NetworkProbe(2)
    for _ in range(2):
        network(inputs)
        probe.step()
    return probe.networks()[0]


def test_layers_of_one_kind_are_kept_once_and_counted_heaviest_first() -> None:
    body = [nn.Conv2d(16, 16, 3, padding="same", bias=False) for _ in range(3)]
    first = nn.Conv2d(3, 16, 5, stride=2).requires_grad_(False)
    network = nn.Sequential(first, nn.BatchNorm2d(16), *body, nn.Flatten(), nn.LazyLinear(4))
    network(torch.rand(2, 3, 20, 20))
    heavy, stem, head = probed(network, torch.rand(2, 3, 20, 20))["layers"]
    assert (heavy["count"], heavy["input"], heavy["norm"], heavy["frozen"]) == (3, [2, 16, 8, 8], True, False)
    assert heavy["flops"] == 3 * 2 * 2 * 16 * 8 * 8 * 16 * 9
    assert (stem["sizes"], stem["frozen"]) == ([3, 16, (5, 5), (2, 2), (0, 0), (1, 1), 1], True)
    assert (head["class"], head["sizes"], head["input"]) == ("Linear", [1024, 4], [2, 1024])


@pytest.mark.parametrize("autocast", [False, True])
def test_each_format_that_the_job_does_not_use_is_timed(
    autocast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPOINT_CACHE", str(tmp_path))
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 4))
    facts = probed(network, torch.rand(2, 3, 8, 8)) | {"autocast": autocast}
    threads = torch.get_num_threads()
    measured = speeds_of(facts, threads=1)
    assert torch.get_num_threads() == threads
    assert set(measured) == {"gflops", "seconds", "channels_last"} | (set() if autocast else {"bf16"})
    assert all(value > 0 for value in measured.values())
    # Kept, and so not measured again.
    assert speeds_of(facts, threads=1) == measured


def test_layers_are_timed_at_a_larger_batch_where_one_may_be_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPOINT_CACHE", str(tmp_path))
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 4))
    facts = probed(network, torch.rand(2, 3, 8, 8))
    seen: list[list[int]] = []
    plain = speeds._step
    monkeypatch.setattr(
        speeds, "_step", lambda layer, *rest, **given: seen.append(layer["input"]) or plain(layer, *rest, **given)
    )
    found = speeds_of(facts, threads=1, batch=2, larger=64)
    assert [64, 3, 8, 8] in seen
    assert [64, 8 * 6 * 6] in seen
    assert 0 < found["larger_seconds"] < found["seconds"]  # an image costs less among many
    assert "larger_seconds" not in speeds_of(facts, threads=1, batch=64, larger=64)


def test_a_layer_that_cannot_be_built_again_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPOINT_CACHE", str(tmp_path))

    class Padding(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(nn.functional.pad(input, (2, 2, 2, 2)))

    facts = probed(nn.Sequential(Padding(3, 8, 5), nn.Flatten(), nn.Linear(8 * 3 * 3, 4)), torch.rand(2, 3, 3, 3))
    assert "seconds" in speeds_of(facts)
    assert set(speeds_of(facts | {"layers": [facts["layers"][0]]})) == {"gflops"}
