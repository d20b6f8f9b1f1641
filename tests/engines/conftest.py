"""Scripts that jobs run; they are no modules of ours to be imported."""

from __future__ import annotations

from pathlib import Path

import pytest

collect_ignore_glob = ["scripts/*"]
SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TORCH_HOME with random weights of a ResNet-18 under the name that torchvision looks for."""
    import torch
    from torchvision.models import ResNet18_Weights, resnet18

    home = tmp_path_factory.mktemp("torch-home")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), folder / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    return home
