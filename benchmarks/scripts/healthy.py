"""Five healthy scripts, at several sensible settings each."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.images import DIGIT_CLASSES, GRATING_CLASSES, MEAN, STD, digits, gratings, part
from scripts.models import NormalisedCnn, PlainCnn, SmallVit, mlp, small_resnet, with_new_head
from scripts.parts import Parts, run

# Images, of which each run trains on 416.
_TRAINING, _VALIDATION = 416, 128


def normalise(image: Tensor) -> Tensor:
    """Return an image with the mean and standard deviation of the gratings taken off."""
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss; looked up when called, as in a script that is imported after the debugger was attached."""
    return functional.cross_entropy(logits, labels)


def shift(image: Tensor) -> Tensor:
    """Return an image shifted by up to two pixels, at random: gratings stay what they are."""
    down, right = torch.randint(-2, 3, (2,)).tolist()
    return torch.roll(image, (down, right), (1, 2))


def adam(lr: float) -> Callable[..., torch.optim.Optimizer]:
    return functools.partial(torch.optim.Adam, lr=lr)


def adamw(lr: float) -> Callable[..., torch.optim.Optimizer]:
    return functools.partial(torch.optim.AdamW, lr=lr, weight_decay=0.05)


def sgd(lr: float) -> Callable[..., torch.optim.Optimizer]:
    return functools.partial(torch.optim.SGD, lr=lr, momentum=0.9, weight_decay=1e-4)


def warmup_then_cosine(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Return a schedule that grows linearly over the first tenth and then falls to zero."""

    def factor(step: int) -> float:
        warmup = max(1, steps // 10)
        if step < warmup:
            return (step + 1) / (10 * warmup) if warmup > 1 else 0.1
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _gratings(size: int, seed: int) -> dict[str, Any]:
    return {
        "train": gratings(_TRAINING, size, 1000 + seed),
        "valid": gratings(_VALIDATION, size, 2000 + seed),
        "classes": GRATING_CLASSES,
        "normalise": normalise,
    }


def frozen_resnet(seed: int, **settings: Any) -> Parts:
    """A ResNet pretrained on gratings, frozen and in eval mode, with a perceptron for a head."""
    torch.manual_seed(seed)
    model = small_resnet(GRATING_CLASSES)
    model.load_state_dict(pretrained())
    model = with_new_head(model, 64, GRATING_CLASSES)
    defaults = {
        "optimizer": adam(1e-3),
        "augment": shift,
        "kept_in_eval": lambda model: [child for name, child in model.named_children() if name != "fc"],
        "parameters": lambda model: list(model.fc.parameters()),
    }
    return Parts("frozen_resnet", seed, model=model, **{**_gratings(32, seed), **defaults, **settings})


def cnn_bn(seed: int, **settings: Any) -> Parts:
    """A convolutional network with batch normalisation, from scratch."""
    torch.manual_seed(seed)
    defaults = {"optimizer": sgd(0.05), "augment": shift}
    model = NormalisedCnn(3, GRATING_CLASSES)
    return Parts("cnn_bn", seed, model=model, **{**_gratings(24, seed), **defaults, **settings})


def plain_cnn(seed: int, **settings: Any) -> Parts:
    """A convolutional network without normalisation, from scratch."""
    torch.manual_seed(seed)
    defaults = {"optimizer": adam(2e-3), "loss": cross_entropy, "batch_size": 16}
    activation = settings.pop("activation", nn.ReLU)
    model = PlainCnn(3, GRATING_CLASSES, activation)
    return Parts("plain_cnn", seed, model=model, **{**_gratings(24, seed), **defaults, **settings})


def vit(seed: int, **settings: Any) -> Parts:
    """A small vision transformer, with warm-up."""
    torch.manual_seed(seed)
    defaults = {"optimizer": adamw(2e-3), "schedule": warmup_then_cosine, "clip": 1.0, "batch_size": 16}
    model = SmallVit(3, 16, GRATING_CLASSES)
    return Parts("vit", seed, model=model, **{**_gratings(16, seed), **defaults, **settings})


def perceptron(seed: int, **settings: Any) -> Parts:
    """A perceptron on digits."""
    torch.manual_seed(seed)
    activation = settings.pop("activation", nn.ReLU)
    start = 100 * (seed % 8)
    defaults: dict[str, Any] = {
        "train": part(digits(), start, 700),
        "valid": part(digits(), start + 700, 200),
        "classes": DIGIT_CLASSES,
        "normalise": lambda image: (image - 0.31) / 0.38,
        "optimizer": sgd(0.05),
        "loader": "slices",
    }
    model = mlp(64, DIGIT_CLASSES, activation)
    return Parts("perceptron", seed, model=model, **{**defaults, **settings})


SCRIPTS: dict[str, Callable[..., Parts]] = {
    "frozen_resnet": frozen_resnet,
    "cnn_bn": cnn_bn,
    "plain_cnn": plain_cnn,
    "vit": vit,
    "perceptron": perceptron,
}
# Beside the scripts' own: what one would also sensibly write.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "frozen_resnet": [
        {},
        {"optimizer": sgd(0.02), "loss": cross_entropy, "batch_size": 64, "epochs": 4},
        {"optimizer": adamw(3e-3), "schedule": warmup_then_cosine, "loader": "slices"},
        {"optimizer": adam(1e-2), "loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
    ],
    "cnn_bn": [
        {},
        {"optimizer": adam(3e-3), "batch_size": 64, "epochs": 5},
        {"optimizer": adamw(2e-3), "schedule": warmup_then_cosine, "clip": 1.0},
        {"optimizer": sgd(0.1), "accumulate": 2, "batch_size": 16, "loss": cross_entropy},
    ],
    "plain_cnn": [
        {},
        {"optimizer": sgd(0.02), "epochs": 6},
        {"activation": nn.Tanh, "loader": "slices"},
        {"optimizer": adamw(2e-3), "batch_size": 32, "epochs": 5, "schedule": warmup_then_cosine},
    ],
    "vit": [
        {},
        {"optimizer": adam(1e-3), "clip": 0.0, "loss": cross_entropy},
        {"optimizer": adamw(1e-3), "batch_size": 32, "epochs": 5},
        {"augment": shift, "loader": "slices", "loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
    ],
    "perceptron": [
        {},
        {"optimizer": adam(2e-3), "loader": "loader", "epochs": 5},
        {"activation": nn.Tanh, "batch_size": 64, "epochs": 5},
        {"normalise": lambda image: 2 * image - 1, "optimizer": adam(5e-3), "loss": cross_entropy},
    ],
}


@functools.cache
def _pretrained() -> dict[str, Tensor]:
    torch.manual_seed(7)
    model = small_resnet(GRATING_CLASSES)
    run(
        Parts(
            "pretraining", 7, GRATING_CLASSES, gratings(768, 32, 1), gratings(64, 32, 2), model, adam(1e-3),
            normalise=normalise, augment=shift, epochs=2,
        )
    )  # fmt: skip
    return model.state_dict()


def pretrained() -> dict[str, Tensor]:
    """Return a small ResNet's weights, pretrained on gratings; made once in a process and inherited by its forks."""
    return copy.deepcopy(_pretrained())
