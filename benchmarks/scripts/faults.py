"""The catalogue of faults: every one that a rule names."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scripts.fault import (
    Block,
    Fault,
    after_head,
    before_head,
    last_linear,
    replace_activations,
    replace_module,
    trained_layers,
)
from scripts.images import Images, part
from scripts.parts import Parts

_IMAGES = ("frozen_resnet", "cnn_bn", "plain_cnn", "vit")
_STUCK = {"LossNotDecreasing": "nothing is learnt with it"}


def _scale_lr(parts: Parts, factor: float) -> None:
    make = parts.optimizer
    assert isinstance(make, functools.partial)
    parts.optimizer = functools.partial(make.func, **{**make.keywords, "lr": make.keywords["lr"] * factor})
    parts.clip = 0.0


def _plain_sgd(parts: Parts, lr: float) -> None:
    parts.optimizer = functools.partial(torch.optim.SGD, lr=lr)
    parts.clip = 0.0


# Gradients.


def _sigmoid_stack(parts: Parts) -> None:
    width = last_linear(parts.model).in_features
    layers = [layer for _ in range(12) for layer in (nn.Linear(width, width), nn.Sigmoid())]
    before_head(parts.model, *layers)


def _cut_backward(parts: Parts) -> None:
    before_head(parts.model, Block(lambda values: 1e-9 * values + (values - 1e-9 * values).detach()))


def _no_zero_grad(parts: Parts) -> None:
    parts.zero_grad = lambda optimizer: None


def _zero_grad_once_an_epoch(parts: Parts) -> None:
    begin, due = parts.before_epoch, [True]

    def before_epoch(parts: Parts, epoch: int) -> None:
        begin(parts, epoch)
        due[0] = True

    def zero_grad(optimizer: torch.optim.Optimizer) -> None:
        if due[0]:
            optimizer.zero_grad()
        due[0] = False

    parts.before_epoch, parts.zero_grad = before_epoch, zero_grad


# Numbers.


def _divide_by_zero(parts: Parts) -> None:
    parts.in_step = lambda logits, loss, step: loss / (0.0 if step >= 5 else 1.0)


def _nan_in_images(parts: Parts) -> None:
    parts.train.pixels[::50, 0, 0, 0] = float("nan")


def _root_of_negative(parts: Parts) -> None:
    before_head(parts.model, Block(lambda values: torch.sqrt(values - values.mean())))


def _overflow(parts: Parts) -> None:
    # With tanh, whose outputs are bounded, the weights themselves have to overflow.
    _plain_sgd(parts, 1e38)


# Initialisation and activations.


def _initialise(parts: Parts, fill: Callable[[Tensor], object]) -> None:
    with torch.no_grad():
        for layer in trained_layers(parts.model):
            fill(layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()


def _zeros(parts: Parts) -> None:
    _initialise(parts, lambda weight: weight.zero_())


def _constant(parts: Parts) -> None:
    _initialise(parts, lambda weight: weight.fill_(0.01))


def _tiny(parts: Parts) -> None:
    _initialise(parts, lambda weight: weight.normal_(0, 1e-4))


def _huge(parts: Parts) -> None:
    _initialise(parts, lambda weight: weight.normal_(0, 1.5))


def _saturate(parts: Parts, activation: type[nn.Module]) -> None:
    replace_activations(parts.model, activation)
    with torch.no_grad():
        for layer in trained_layers(parts.model)[:-1]:
            layer.weight.mul_(60)


def _kill_relus(parts: Parts) -> None:
    replace_activations(parts.model, nn.ReLU)
    with torch.no_grad():
        for layer in trained_layers(parts.model)[:-1]:
            if layer.bias is not None:
                layer.bias.fill_(-50.0)
        for module in parts.model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad:
                module.bias.fill_(-10.0)


# Values, updates.


def _zero_layer(parts: Parts) -> None:
    layer = trained_layers(parts.model)[-1]
    with torch.no_grad():
        layer.weight.zero_()
    layer.weight.requires_grad_(False)


def _leave_out_a_layer(parts: Parts) -> None:
    left = trained_layers(parts.model)[0]
    given = parts.parameters
    parts.parameters = lambda model: [
        item for item in given(model) if all(item is not own for own in left.parameters())
    ]


def _wide_layer(parts: Parts) -> None:
    with torch.no_grad():
        trained_layers(parts.model)[0].weight.mul_(100)


# Learning rate and loss.


def _ascend(parts: Parts) -> None:
    # Small steps: uphill with large ones diverges, which is then the learning rate's fault too.
    given = parts.in_step
    parts.in_step = lambda logits, loss, step: -given(logits, loss, step)
    _scale_lr(parts, 0.1)


def _few_images(parts: Parts, epochs: int, noisy: float) -> None:
    generator = torch.Generator().manual_seed(parts.seed)
    parts.train = part(parts.train, 0, 64)
    wrong = torch.rand(64, generator=generator) < noisy
    parts.train.labels[wrong] = torch.randint(0, parts.classes, (int(wrong.sum()),), generator=generator)
    parts.augment = lambda image: image
    parts.batch_size, parts.epochs, parts.accumulate, parts.schedule = 16, epochs, 1, None


# Inputs.


def _raw(parts: Parts) -> None:
    parts.normalise = lambda image: (255 * image).round()


def _only_to_tensor(parts: Parts) -> None:
    parts.normalise = lambda image: image


def _twice(parts: Parts) -> None:
    given = parts.normalise
    parts.normalise = lambda image: given(given(image))


def _reversed(parts: Parts) -> None:
    given = parts.normalise
    parts.normalise = lambda image: given(image.flip(0))


# Labels.


def _random_labels(parts: Parts) -> None:
    for index, images in enumerate((parts.train, parts.valid)):
        generator = torch.Generator().manual_seed(31 * parts.seed + index)
        images.labels = images.labels[torch.randperm(len(images), generator=generator)]


def _constant_labels(parts: Parts) -> None:
    for images in (parts.train, parts.valid):
        images.labels = torch.full_like(images.labels, 2)


def _sorted_labels(parts: Parts) -> None:
    order = torch.argsort(parts.train.labels, stable=True)
    parts.train = Images(parts.train.pixels[order], parts.train.labels[order])
    parts.shuffle = False


def _rare_classes(parts: Parts) -> None:
    keep = torch.ones(len(parts.train), dtype=torch.bool)
    for label in range(parts.classes // 2):
        places = torch.nonzero(parts.train.labels == label).flatten()
        keep[places[3:]] = False
    parts.train = Images(parts.train.pixels[keep], parts.train.labels[keep])
    parts.epochs *= 2


def _mix_two_classes(parts: Parts) -> None:
    labels = parts.train.labels
    labels[labels == 1] = 2
    parts.epochs += 2


def _more_outputs(parts: Parts) -> None:
    head = last_linear(parts.model)
    replace_module(parts.model, head, nn.Linear(head.in_features, parts.classes + 40))


# Heads.


def _bottleneck(parts: Parts) -> None:
    head = last_linear(parts.model)
    layers = nn.Sequential(nn.Linear(head.in_features, 2), nn.ReLU(), nn.Linear(2, head.out_features))
    replace_module(parts.model, head, layers)


# Modes.


def _backbone_in_train_mode(parts: Parts) -> None:
    parts.kept_in_eval = lambda model: []


def _random_crops(image: Tensor) -> Tensor:
    down, right = torch.randint(0, 5, (2,)).tolist()
    size = image.shape[-1]
    padded = nn.functional.pad(image, (2, 2, 2, 2))
    return padded[:, down : down + size, right : right + size]


def _random_evaluation(parts: Parts) -> None:
    parts.augment_evaluation, parts.loader = _random_crops, "loader"


def _evaluate_in_train_mode(parts: Parts) -> None:
    parts.evaluates_in_train_mode = True


# Parameters.


def _optimizer_of_a_copy(parts: Parts) -> None:
    given = parts.parameters
    parts.parameters = lambda model: given(copy.deepcopy(model))


def _all_frozen(parts: Parts) -> None:
    for parameter in parts.model.parameters():
        parameter.requires_grad_(False)
    parts.parameters = lambda model: list(model.parameters())
    parts.in_step = lambda logits, loss, step: loss.requires_grad_()


def _unused_layer(parts: Parts) -> None:
    parts.model.add_module("auxiliary", nn.Linear(64, 64))
    given = parts.parameters
    parts.parameters = lambda model: [*given(model), *(p for p in model.auxiliary.parameters())]


# Progress.


def _clock_jumps(parts: Parts) -> None:
    """Let half an hour pass within a step, without waiting for it."""

    def in_step(logits: Tensor, loss: Tensor, step: int) -> Tensor:
        if step == 6:
            real = time.time
            time.time = lambda: real() + 2000.0
        return loss

    parts.in_step = in_step


def _misscaled(parts: Parts) -> None:
    parts.epoch_loss = lambda batches: sum(loss * size for loss, size in batches) / len(batches)


def _summed(parts: Parts) -> None:
    parts.epoch_loss = lambda batches: sum(loss for loss, _ in batches)


_DEAD = {
    "VanishingGradient": "no gradient passes what is dead",
    "LossNotDecreasing": "what is dead learns nothing",
    "PoorWeightInitialization": "the weights begin so that nothing passes",
    "WeightUpdateRatio": "weights behind which nothing passes do not change",
}
_DIVERGES = {
    "LossNotDecreasing": "a diverging loss does not come down",
    "WeightUpdateRatio": "the steps are many times the weights",
    "ExplodingTensor": "what grows without end overflows",
    "NotANumber": "what grows without end overflows",
    "DeadRelu": "one leap too far and no unit fires any more",
    "SaturatedActivation": "large weights saturate",
    "VanishingGradient": "what is dead or saturated has no gradient",
}
_BEGINS_BADLY = {
    "VanishingGradient": "weights near zero pass no gradient on",
    "LossNotDecreasing": "the loss stays where it was",
    "DeadRelu": "units begin dead",
    "LearningRateTooHigh": "relative to such weights any step is large",
    "WeightUpdateRatio": "relative to such weights any step is large",
    "SaturatedActivation": "large weights saturate",
    "ExplodingTensor": "large weights overflow",
    "NotANumber": "large weights overflow",
    "LearningRateTooLow": "relative to large weights any step is small; from tiny ones a larger one would lead away",
}


def _lr(factor: float) -> Callable[[Parts], None]:
    return lambda parts: _scale_lr(parts, factor)


FAULTS: tuple[Fault, ...] = (
    Fault("sigmoid_stack", "VanishingGradient", _sigmoid_stack, also={
        **_STUCK, "PoorWeightInitialization": "the signal shrinks layer by layer: another initialisation would mend it",
        "WeightUpdateRatio": "weights without a gradient do not change",
    }),
    Fault("cut_backward", "VanishingGradient", _cut_backward, ("cnn_bn", "plain_cnn", "vit", "perceptron"), also={
        "PoorWeightInitialization": "SageMaker's three signs are there, and cannot tell it from that",
        "WeightUpdateRatio": "weights without a gradient do not change", **_STUCK,
    }),
    Fault("no_zero_grad", "GradientsNotZeroed", _no_zero_grad, also={
        "LearningRateTooHigh": "the sum of all gradients makes steps that grow", **_DIVERGES,
    }),
    Fault("zero_grad_once_an_epoch", "GradientsNotZeroed", _zero_grad_once_an_epoch, also={
        "LearningRateTooHigh": "the sum of all gradients makes steps that grow", **_DIVERGES,
    }),
    Fault("divide_by_zero", "NotANumber", _divide_by_zero, also={
        "ExplodingTensor": "NaN is what it looks for", "LossNotDecreasing": "NaN is not lower",
        "LearningRateTooHigh": "an infinite step has been taken",
    }),
    Fault("nan_in_images", "NotANumber", _nan_in_images, also={
        "ExplodingTensor": "NaN is what it looks for", "LossNotDecreasing": "NaN is not lower",
        "LearningRateTooHigh": "an infinite step has been taken",
    }),
    Fault("root_of_negative", "ExplodingTensor", _root_of_negative, also={
        "NotANumber": "NaN is what it looks for", "LossNotDecreasing": "NaN is not lower",
        "LearningRateTooHigh": "an infinite step has been taken",
    }),
    Fault("overflow", "ExplodingTensor", _overflow, ("plain_cnn", "vit", "perceptron", "frozen_resnet"), also={
        "LearningRateTooHigh": "it is", **_DIVERGES,
    }),
    Fault("zeros", "PoorWeightInitialization", _zeros, also=_BEGINS_BADLY),
    Fault("constant", "PoorWeightInitialization", _constant, also=_BEGINS_BADLY),
    Fault("tiny", "PoorWeightInitialization", _tiny, ("plain_cnn", "perceptron"), also={
        **_BEGINS_BADLY, "LearningRateTooLow": "a larger one would carry them away from there",
    }),
    Fault("huge", "PoorWeightInitialization", _huge, ("plain_cnn", "perceptron"), also=_BEGINS_BADLY),
    Fault(
        "saturated_tanh", "SaturatedActivation", lambda parts: _saturate(parts, nn.Tanh),
        ("frozen_resnet", "plain_cnn", "perceptron"), also={**_BEGINS_BADLY, "PoorWeightInitialization": "they do"},
    ),
    Fault(
        "saturated_sigmoid", "SaturatedActivation", lambda parts: _saturate(parts, nn.Sigmoid),
        ("frozen_resnet", "plain_cnn", "perceptron"), also={**_BEGINS_BADLY, "PoorWeightInitialization": "they do"},
    ),
    Fault("dead_relus", "DeadRelu", _kill_relus, ("frozen_resnet", "cnn_bn", "plain_cnn", "perceptron"), also=_DEAD),
    Fault("steps_far_too_large", "WeightUpdateRatio", lambda parts: _plain_sgd(parts, 1e4),
          ("plain_cnn", "perceptron", "vit", "frozen_resnet"), also={**_DIVERGES, "LearningRateTooHigh": "it is"}),
    Fault("steps_far_too_small", "WeightUpdateRatio", lambda parts: _plain_sgd(parts, 1e-10), also={
        **_STUCK, "LearningRateTooLow": "it is",
    }),
    Fault("zero_layer", "AllZero", _zero_layer, also={
        **_STUCK, "VanishingGradient": "a layer of zeros passes no gradient back",
        "WeightUpdateRatio": "weights without a gradient do not change",
        "UnusedParameters": "the frozen layer cuts off what is before it",
        "PoorWeightInitialization": "a layer of zeros is no initialisation",
    }, parameters={"collection_names": "weights"}),
    Fault("unchanged_layer", "UnchangedTensor", _leave_out_a_layer, ("cnn_bn", "plain_cnn", "vit", "perceptron"), also={
        "UnusedParameters": "the layer requires a gradient and is in no optimizer",
    }, parameters={"collection_names": "weights"}),
    Fault("wide_layer", "TensorVariance", _wide_layer, also={
        **_BEGINS_BADLY, "PoorWeightInitialization": "they do",
    }, parameters={"collection_names": "weights", "max_threshold": 1.0}),
    Fault("other_learning_rate", "SimilarAcrossRuns", _lr(0.5)),
    Fault("ascend", "LossNotDecreasing", _ascend, also={
        **_DIVERGES, "LearningRateTooHigh": "uphill, any step is too large",
    }),
    Fault("zero_learning_rate", "LossNotDecreasing", _lr(0.0), also={
        "LearningRateTooLow": "it is", "WeightUpdateRatio": "nothing changes",
    }),
    Fault("few_images", "Overfit", lambda parts: _few_images(parts, 50, 0.4), ("cnn_bn", "plain_cnn", "perceptron"),
          also={"Overtraining": "it goes on long after the best epoch"},
          later="the validation loss has to fall before it can rise"),
    Fault("forty_epochs", "Overtraining", lambda parts: _few_images(parts, 50, 0.2),
          ("cnn_bn", "plain_cnn", "perceptron"),
          also={"Overfit": "that is what going on does to it"}, later="it takes more than ten evaluations"),
    Fault("not_centred", "CheckInputImages", _only_to_tensor, ("cnn_bn", "plain_cnn", "vit"),
          parameters={"threshold_samples": "400"}),
    Fault("rare_classes", "ClassImbalance", _rare_classes, also={
        "Overfit": "the rare classes of the validation part get worse while the frequent ones get better",
    }),
    Fault("two_classes_as_one", "Confusion", _mix_two_classes, also={
        "LogitsForWrongClassCount": "a label never occurs in training",
        "Overfit": "the class that is never labelled gets worse while training improves",
    }, parameters={"min_diag": "0.9"}, later="the others have to be learnt first"),
    Fault("clock_jumps", "StalledTrainingRule", _clock_jumps),
    Fault("relu_on_logits", "ActivationOnLogits", lambda parts: after_head(parts.model, nn.ReLU()), also={
        **_STUCK, "DeadRelu": "logits that are negative for every sample are dead units",
        "VanishingGradient": "dead logits have no gradient",
    }),
    Fault("sigmoid_on_logits", "ActivationOnLogits", lambda parts: after_head(parts.model, nn.Sigmoid()), also=_STUCK),
    Fault("softmax_on_logits", "ActivationOnLogits", lambda parts: after_head(parts.model, nn.Softmax(-1)),
          also=_STUCK),
    Fault("raw_images", "InputNotNormalised", _raw, also={
        "CheckInputImages": "the mean is not zero", "LearningRateTooHigh": "for inputs so large any rate is",
        "DeadRelu": "inputs that are all positive push units one way", **_STUCK,
        "PoorWeightInitialization": "for such inputs the weights are too large",
        "SaturatedActivation": "large inputs saturate", "VanishingGradient": "what is saturated has no gradient",
    }),
    Fault("only_to_tensor", "InputNotNormalised", _only_to_tensor, ("frozen_resnet",), also={
        "CheckInputImages": "the mean is not zero",
    }),
    Fault("normalised_twice", "InputNotNormalised", _twice, _IMAGES, also={
        "CheckInputImages": "the mean is not zero", "DeadRelu": "inputs far from zero silence units",
    }),
    Fault("blue_green_red", "InputNotNormalised", _reversed, ("frozen_resnet",)),
    Fault("backbone_in_train_mode", "FrozenBatchNormDrift", _backbone_in_train_mode, ("frozen_resnet",)),
    Fault(
        # The perceptron's script has no data loader, without which no sample is known again.
        "random_evaluation", "RandomEvaluation", _random_evaluation, _IMAGES, later="it takes a second pass",
    ),
    Fault("evaluated_in_train_mode", "EvaluatedInTrainMode", _evaluate_in_train_mode,
          ("frozen_resnet", "cnn_bn", "vit"),
          also={"FrozenBatchNormDrift": "evaluating in train mode moves the statistics"}),
    Fault("optimizer_of_a_copy", "FrozenEverything", _optimizer_of_a_copy, also={
        "UnusedParameters": "all parameters are in no optimizer", **_STUCK,
        "WeightUpdateRatio": "no weight changes", "LearningRateTooLow": "no weight changes",
        "GradientsNotZeroed": "the optimizer clears the copy's gradients, never the model's",
        "LabelsShuffledOrConstant": "the loss stays at guessing",
    }),
    Fault("all_frozen", "FrozenEverything", _all_frozen, also={
        **_STUCK, "FrozenBatchNormDrift": "the frozen batch norms are in train mode",
    }),
    Fault("unused_layer", "UnusedParameters", _unused_layer, _IMAGES),
    Fault("layer_left_out", "UnusedParameters", _leave_out_a_layer, ("cnn_bn", "plain_cnn", "vit", "perceptron"),
          also={"UnchangedTensor": "what is in no optimizer does not change"}),
    Fault("learning_rate_times_300", "LearningRateTooHigh", _lr(300.0), also=_DIVERGES),
    Fault("learning_rate_over_10000", "LearningRateTooLow", _lr(1e-4), also={
        **_STUCK, "WeightUpdateRatio": "hardly anything changes",
    }),
    Fault("random_labels", "LabelsShuffledOrConstant", _random_labels, also={
        **_STUCK, "Overfit": "labels at random can only be learnt by heart",
    }),
    Fault("constant_labels", "LabelsShuffledOrConstant", _constant_labels, also={
        "LogitsForWrongClassCount": "the other outputs stand for nothing",
        "VanishingGradient": "soon nothing is left to learn", "WeightUpdateRatio": "soon nothing is left to learn",
        "SaturatedActivation": "driven to one answer, units saturate",
    }),
    Fault("sorted_labels", "LabelsShuffledOrConstant", _sorted_labels, also={
        **_STUCK, "LearningRateTooHigh": "each batch undoes the one before it",
        "Overfit": "the last class of each pass is fitted, the others forgotten",
        "DeadRelu": "a batch of one class uses few units",
        "VanishingGradient": "a batch of one class is soon right",
        "SaturatedActivation": "driven to one answer, units saturate",
    }),
    Fault("forty_outputs_more", "LogitsForWrongClassCount", _more_outputs),
    Fault("bottleneck", "HeadBottleneck", _bottleneck, also={
        **_STUCK, "DeadRelu": "one of two units dead is half of them",
        "VanishingGradient": "when both are dead nothing passes",
        "WeightUpdateRatio": "when both are dead nothing passes",
    }),
    Fault("sum_over_batches", "EpochMetricMisscaled", _misscaled),
    Fault("not_divided", "EpochMetricMisscaled", _summed),
)  # fmt: skip
# Beside these, diagnosis.py judges TrainServeSkew on each script's recording with serving scripts that fit and do not.
