"""A training script in parts, so that a fault can be put into one of them, and the loop that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from scripts.images import Images

Transform = Callable[[Tensor], Tensor]


@dataclass
class Parts:
    """What a script is made of.

    Args:
        classes: how many labels there are.
        train, valid: images in [0, 1].
        model: with its weights.
        optimizer: makes one of parameters.
        parameters: gives those that are trained.
        normalise: of images [c, h, w], in training and evaluation.
        augment: random, of training images.
        augment_evaluation: what is done to evaluation images; nothing, in a healthy script.
        loss: of logits and labels.
        schedule: makes a scheduler of an optimizer, stepped after each batch.
        kept_in_eval: the modules whose owner keeps them in eval mode while training.
        zero_grad: called before each backward pass.
        epoch_loss: of (batch loss, batch size) pairs, what the script prints as the epoch's loss.
        loader: `loader`, or `slices` of tensors as many scripts do.
        in_step: called with logits and loss before the backward pass; returns the loss.
        before_epoch: called with these parts and the epoch's number.
        evaluates_in_train_mode, shuffle, clip, accumulate: as they say.
    """

    name: str
    seed: int
    classes: int
    train: Images
    valid: Images
    model: nn.Module
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    parameters: Callable[[nn.Module], list[nn.Parameter]] = lambda model: [
        item for item in model.parameters() if item.requires_grad
    ]
    normalise: Transform = lambda image: image
    augment: Transform = lambda image: image
    augment_evaluation: Transform = lambda image: image
    loss: Callable[[Tensor, Tensor], Tensor] = field(default_factory=nn.CrossEntropyLoss)
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None = None
    kept_in_eval: Callable[[nn.Module], list[nn.Module]] = lambda model: []
    zero_grad: Callable[[torch.optim.Optimizer], None] = lambda optimizer: optimizer.zero_grad()
    epoch_loss: Callable[[list[tuple[float, int]]], float] = lambda batches: (
        sum(loss * size for loss, size in batches) / sum(size for _, size in batches)
    )
    in_step: Callable[[Tensor, Tensor, int], Tensor] = lambda logits, loss, step: loss
    before_epoch: Callable[[Parts, int], None] = lambda parts, epoch: None
    loader: str = "loader"
    evaluates_in_train_mode: bool = False
    shuffle: bool = True
    clip: float = 0.0
    accumulate: int = 1
    batch_size: int = 32
    epochs: int = 3


class _Set(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, images: Images, *transforms: Transform) -> None:
        self.images, self.transforms = images, transforms

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = self.images.pixels[index]
        for transform in self.transforms:
            pixels = transform(pixels)
        return pixels, self.images.labels[index]


def run(parts: Parts) -> float:
    """Run the script; return the accuracy of its last evaluation."""
    torch.manual_seed(parts.seed)
    model = parts.model
    optimizer = parts.optimizer(parts.parameters(model))
    training = _Set(parts.train, parts.augment, parts.normalise)
    evaluation = _Set(parts.valid, parts.augment_evaluation, parts.normalise)
    steps = parts.epochs * -(-len(training) // parts.batch_size) // parts.accumulate
    schedule = parts.schedule(optimizer, steps) if parts.schedule else None
    step, accuracy = 0, 0.0
    for epoch in range(parts.epochs):
        parts.before_epoch(parts, epoch)
        model.train()
        for module in parts.kept_in_eval(model):
            module.eval()
        losses = []
        for images, labels in _batches(training, parts, shuffle=parts.shuffle):
            logits = model(images)
            loss = parts.in_step(logits, parts.loss(logits, labels), step)
            if step % parts.accumulate == 0:
                parts.zero_grad(optimizer)
            (loss / parts.accumulate).backward()
            step += 1
            if step % parts.accumulate == 0:
                if parts.clip:
                    nn.utils.clip_grad_norm_(model.parameters(), parts.clip)
                optimizer.step()
                if schedule is not None:
                    schedule.step()
            losses.append((float(loss.detach()), len(labels)))
        accuracy, valid_losses = _evaluate(parts, evaluation)
        print(f"Epoch {epoch + 1}: train loss: {parts.epoch_loss(losses):.4f}", end=", ")
        print(f"valid loss: {parts.epoch_loss(valid_losses):.4f}, accuracy: {100 * accuracy:.1f}%")
    return accuracy


@torch.no_grad()
def _evaluate(parts: Parts, evaluation: _Set) -> tuple[float, list[tuple[float, int]]]:
    parts.model.train(parts.evaluates_in_train_mode)
    right, losses = 0, []
    for images, labels in _batches(evaluation, parts, shuffle=False):
        logits = parts.model(images)
        losses.append((float(parts.loss(logits, labels)), len(labels)))
        right += int((logits.argmax(-1) == labels).sum())
    return right / len(evaluation), losses


def _batches(images: _Set, parts: Parts, *, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
    if parts.loader == "loader":
        yield from DataLoader(images, batch_size=parts.batch_size, shuffle=shuffle)
        return
    order = torch.randperm(len(images)) if shuffle else torch.arange(len(images))
    for rows in order.split(parts.batch_size):
        pairs = [images[int(row)] for row in rows]
        yield torch.stack([pixels for pixels, _ in pairs]), torch.stack([label for _, label in pairs])
