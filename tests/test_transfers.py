"""Moments in which tensors go elsewhere are told while somebody listens, and nothing stays patched after."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finepoint import transfers


def test_values_read_back_are_told_and_the_methods_are_torchs_own_again() -> None:
    before = torch.Tensor.item
    seen: list[bool] = []
    watching = transfers.SYNC.subscribe(lambda tensor, begins: seen.append(begins))
    assert torch.ones(()).item() == 1
    assert float(torch.ones(())) == 1
    watching.close()
    torch.ones(()).item()
    assert seen[:2] == [True, False]
    assert len(seen) in (4, 6)  # float() may go through item()
    assert torch.Tensor.item is before
    assert "item" not in vars(torch.Tensor)


def test_a_tensor_in_a_condition_is_read_back_too() -> None:
    seen: list[bool] = []
    watching = transfers.SYNC.subscribe(lambda tensor, begins: seen.append(begins))
    assert torch.ones(())
    watching.close()
    assert torch.ones(())
    assert seen == [True, False]


def test_copies_are_told_even_when_they_fail() -> None:
    seen: list[bool] = []
    watching = transfers.COPY.subscribe(lambda tensor, begins: seen.append(begins))
    with pytest.raises(RuntimeError):
        torch.ones(1).to("no such device")
    watching.close()
    assert seen == [True, False]


def test_saving_is_told(tmp_path: Path) -> None:
    seen: list[bool] = []
    watching = transfers.SAVE.subscribe(seen.append)
    torch.save(torch.ones(1), tmp_path / "x.pt")
    watching.close()
    torch.save(torch.ones(1), tmp_path / "x.pt")
    assert seen == [True, False]
