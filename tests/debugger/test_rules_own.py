"""Finepoint's own rules, on recordings made by hand: what is wrong is named, what is sound passes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from tests.debugger.made import EVAL, TRAIN, Made, linear, module

from finepoint.debugger.rules.checking import choose_rules, judge
from finepoint.debugger.rules.result import RuleResult


def verdict(made: Made, rule: str, **parameters: object) -> RuleResult:
    (chosen,) = choose_rules([rule], {rule: parameters})
    return judge(chosen, made.recording())


def with_loss(*operations: str, expects: str = "logits") -> Made:
    head = {"operation": "addmm", "out_features": 10, "parameter": "Net_fc.weight"}
    return Made().fact(
        "loss", 0, TRAIN, function="cross_entropy", expects=expects, operations=list(operations), linear=head
    )


@pytest.mark.parametrize(("operation", "word"), [("relu", "ReLU"), ("sigmoid", "sigmoid"), ("softmax", "softmax")])
def test_an_activation_on_logits_is_named(operation: str, word: str) -> None:
    found = verdict(with_loss(operation), "ActivationOnLogits")
    assert found.fired and found.first_step == 0 and word in found.remedy


def test_logits_and_what_changes_nothing_about_them_pass() -> None:
    assert verdict(with_loss(), "ActivationOnLogits").passed
    assert verdict(with_loss("logsoftmax", "div"), "ActivationOnLogits").passed
    assert verdict(with_loss("sigmoid", expects="probabilities"), "ActivationOnLogits").status == "NotApplicable"


def first_layer(
    low: float, high: float, mean: float, std: float, fit: dict[str, float] | None = None, **changed: Any
) -> Made:
    values = {"shape": [4, 3, 64, 64], "module": "conv1", **changed}
    return Made().fact("first_layer_input", 0, TRAIN, min=low, max=high, mean=mean, std=std, fit=fit, **values)


FITS = {"given": 0.1, "scaled": 3.0, "normalised": 2.0, "scaled_normalised": 3.0, "undone": 2.0, "reversed": 0.12}


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (first_layer(0, 255, 120, 60), "raw"),
        (first_layer(-11, 7, -2.1, 4.4), "twice"),
        (first_layer(0, 1, 0.45, 0.25, {**FITS, "given": 2.0, "normalised": 0.1}), "mean and standard deviation"),
        (first_layer(-2, 2.6, 0, 1, {**FITS, "given": 2.0, "undone": 0.1}), "twice"),
        (first_layer(-2, 2.6, 0, 1, {**FITS, "given": 0.9, "reversed": 0.2}), "blue, green, red"),
        (first_layer(-2, 2.6, 0, 1, {**FITS, "given": 0.3, "reversed_before": 0.1}), "blue, green, red"),
    ],
)
def test_images_that_do_not_fit_are_told_with_what_is_wrong(made: Made, says: str) -> None:
    found = verdict(made, "InputNotNormalised")
    assert found.fired and says in found.meaning


def test_images_that_fit_or_that_no_correction_makes_fit_pass() -> None:
    assert verdict(first_layer(-2, 2.6, 0, 1, FITS), "InputNotNormalised").passed
    assert verdict(first_layer(-2, 2.6, 0, 1, {**FITS, "given": 2.0, "reversed": 1.9}), "InputNotNormalised").passed
    assert verdict(first_layer(0, 1, 0.45, 0.25), "InputNotNormalised").passed  # from scratch


def test_a_frozen_backbone_without_batch_norm_wants_a_mean_taken_off() -> None:
    made = first_layer(0, 1, 0.45, 0.25).model(module("conv1", "Conv2d", (8, 3, 3, 3), trainable=False))
    assert verdict(made, "InputNotNormalised").fired


def test_features_computed_beforehand_are_no_images() -> None:
    result = verdict(first_layer(0, 90, 1, 1, shape=[4, 1280]), "InputNotNormalised")
    assert result.status == "NotApplicable" and "features computed beforehand" in result.reason


def batch_norm(means: list[float], *, trainable: bool = False) -> Made:
    made = Made().model(module("bn", "BatchNorm2d", (8,), trainable=trainable), linear("fc", 8, 2))
    for reduction in ("mean", "l2"):
        made.series("batch_norm/bn.running_mean", means, reduction=reduction)
    return made


def test_running_statistics_that_move_under_frozen_weights_are_named() -> None:
    assert verdict(batch_norm([0.5, 0.5, 0.51]), "FrozenBatchNormDrift").first_step == 2
    assert verdict(batch_norm([0.5, 0.5, 0.5]), "FrozenBatchNormDrift").passed
    assert verdict(batch_norm([0.5, 0.6], trainable=True), "FrozenBatchNormDrift").status == "NotApplicable"


def evaluated(*passes: list[str], loader: int = 1) -> Made:
    made = Made().fact("loader", number=loader, dataset="Set", length=2, batch_size=2, transform="RandomCrop()")
    for number, samples in enumerate(passes):
        values = {"pass": number, "loader": loader, "batch": 0, "samples": samples}
        made.fact("evaluation_batch", number, EVAL, **values)
    return made


def test_samples_that_differ_between_passes_are_named_at_the_second() -> None:
    found = verdict(evaluated(["a", "b"], ["c", "d"]), "RandomEvaluation")
    assert found.first_step == 1 and found.evidence["transform"] == "RandomCrop()"
    assert verdict(evaluated(["a", "b"], ["b", "a"]), "RandomEvaluation").passed
    assert verdict(evaluated(["a", "b"]), "RandomEvaluation").status == "NotApplicable"


@pytest.mark.parametrize(("sources", "fires"), [(("a", "a"), True), (("a", "b"), False), ((None, None), False)])
def test_two_loaders_are_one_where_they_say_that_they_have_the_same_samples(
    sources: tuple[str | None, str | None], fires: bool
) -> None:
    made = Made()
    for number, (source, samples) in enumerate(zip(sources, (["a", "b"], ["c", "d"]), strict=True)):
        made.fact("loader", number=number, source=source, length=2, batch_size=2, transform="Resize()")
        made.fact("evaluation_batch", number, EVAL, **{"pass": 0, "loader": number, "batch": 0, "samples": samples})
    assert verdict(made, "RandomEvaluation").fired is fires


def test_a_sample_read_twice_tells_in_the_first_pass() -> None:
    made = evaluated(["a", "b"]).fact("read_twice", 0, EVAL, loader=1, equal=False)
    assert verdict(made, "RandomEvaluation").first_step == 0


def test_dropout_that_drops_while_evaluating_is_named() -> None:
    made = Made().model(module("drop", "Dropout", p=0.5), module("none", "Dropout", p=0.0))
    assert verdict(made.fact("evaluation", 0, EVAL, training_modules=["none"]), "EvaluatedInTrainMode").passed
    found = verdict(made.fact("evaluation", 4, EVAL, training_modules=["none", "drop"]), "EvaluatedInTrainMode")
    assert (found.first_step, found.evidence["modules"]) == (4, ["drop"])


def test_gradients_that_stay_are_named_after_three_steps() -> None:
    assert verdict(Made().series("stale_gradients", [1.0] * 3), "GradientsNotZeroed").first_step == 2
    assert verdict(Made().series("stale_gradients", [0.0] * 9), "GradientsNotZeroed").passed


def optimized(held: list[str], outside: list[str], without: list[str]) -> Made:
    made = Made().model(linear("a", 4, 4), linear("b", 4, 4)).series("learning_rate/group0", [0.1] * 4)
    made.fact(
        "optimizer", 0, TRAIN, number=0, class_name="Adam", groups=[{"lr": 0.1, "parameters": held}],
        not_in_optimizer=outside, not_in_model=0,
    )  # fmt: skip
    return made.fact("no_gradient", 0, TRAIN, parameters=without) if without else made


A, B = "Net_a.weight", "Net_b.weight"


def test_parameters_that_are_not_trained_are_named() -> None:
    assert verdict(optimized([A, B], [], []), "UnusedParameters").passed
    assert verdict(optimized([A], [B], []), "UnusedParameters").evidence["not_in_optimizer"] == [B]
    assert verdict(optimized([A, B], [], [B]), "UnusedParameters").evidence["without_gradient"] == [B]
    later = optimized([A, B], [], [B]).series(f"gradient/{B}", [0.5], reduction="l2", steps=[3])
    assert verdict(later, "UnusedParameters").passed


def test_an_optimizer_that_moves_nothing_is_named() -> None:
    assert verdict(optimized([], [A, B], []), "FrozenEverything").fired
    assert verdict(optimized([A], [B], []), "FrozenEverything").passed


def trained(losses: list[float], ratios: list[float], rate: float = 0.1) -> Made:
    made = Made().model(linear("a", 4, 4)).losses(losses).series(f"update_ratio/{A}", ratios)
    made.series(f"gradient/{A}", [1.0] * len(ratios), reduction="l2").series(A, [2.0] * len(ratios), reduction="l2")
    return made.series("learning_rate/group0", [rate] * len(losses))


def test_a_rate_that_is_too_high_is_named_with_a_lower_one() -> None:
    found = verdict(trained([2.3, 9.0, *[2.5] * 30], [1.0] * 32), "LearningRateTooHigh")
    # 5e-3 of the weights a step instead of 1: a two-hundredth of 0.1.
    assert found.fired and found.evidence["suggested_learning_rate"] == pytest.approx(5e-4)


def test_a_leap_at_the_beginning_that_is_made_up_for_passes() -> None:
    falling = [2.3, 30.0, *[20 * 0.8**step for step in range(30)]]
    assert verdict(trained(falling, [3.0, *[0.05] * 31]), "LearningRateTooHigh").passed
    assert verdict(trained([2.3] * 30, [0.01] * 30), "LearningRateTooHigh").passed


def test_a_leap_that_is_not_made_up_for_when_the_job_ends_is_named() -> None:
    made = trained([2.3, 300.0, *[200 * 0.8**step for step in range(20)]], [3.0, *[0.05] * 21])
    assert verdict(made, "LearningRateTooHigh").passed
    made.writer.close()
    assert verdict(made, "LearningRateTooHigh").first_step == 21


def test_a_rate_that_is_too_low_is_named_with_a_higher_one() -> None:
    found = verdict(trained([2.3] * 20, [1e-6] * 20), "LearningRateTooLow")
    assert found.fired and found.evidence["suggested_learning_rate"] == 100.0
    assert verdict(trained([2.3] * 20, [1e-3] * 20), "LearningRateTooLow").passed
    assert verdict(trained([2.3 * 0.9**step for step in range(20)], [1e-6] * 20), "LearningRateTooLow").passed
    short = verdict(trained([2.3] * 8, [1e-6] * 8), "LearningRateTooLow")
    assert short.reason == "8 losses were recorded; it takes 10"


def labelled(*histograms: dict[int, int]) -> Made:
    made = Made()
    for step, histogram in enumerate(histograms):
        made.fact("labels", step, TRAIN, histogram=histogram, classes=4)
    return made


def test_labels_that_are_constant_or_sorted_are_named() -> None:
    assert verdict(labelled(*[{2: 32}] * 5), "LabelsShuffledOrConstant").meaning == "All labels are 2."
    in_order = labelled({0: 8}, {0: 4, 1: 4}, {1: 8}, {2: 8}, {2: 4, 3: 4}, {3: 8})
    assert "sorted by class" in verdict(in_order, "LabelsShuffledOrConstant").meaning
    mixed = labelled(*[{0: 2, 1: 2, 2: 2, 3: 2}] * 6)
    assert verdict(mixed, "LabelsShuffledOrConstant").passed


def test_outputs_that_no_label_stands_for_are_named_after_a_pass() -> None:
    made = labelled({0: 4, 1: 4, 3: 4}).fact("loss", 0, TRAIN, function="cross_entropy")
    assert verdict(made, "LogitsForWrongClassCount").status == "NotApplicable"
    found = verdict(made.passed(TRAIN, 0, 0), "LogitsForWrongClassCount")
    assert found.fired and found.evidence["unused"] == [2]
    assert verdict(made.fact("labels", 0, EVAL, histogram={2: 1}, classes=4), "LogitsForWrongClassCount").passed


def headed(*widths: int) -> Made:
    layers = [linear(f"fc{place}", a, b) for place, (a, b) in enumerate(itertools.pairwise(widths))]
    return with_loss().model(*layers)


def test_a_hidden_layer_narrower_than_half_of_what_it_joins_is_a_bottleneck() -> None:
    assert verdict(headed(64, 4, 10), "HeadBottleneck").evidence["width"] == 4
    assert verdict(headed(64, 5, 10), "HeadBottleneck").passed
    assert verdict(headed(64, 10), "HeadBottleneck").status == "NotApplicable"


def printed(name: str, value: float) -> Made:
    # Four batches of four with losses 1, 2, 3, 2: their mean is 2, the sum over samples 32.
    made = Made().losses([1.0, 2.0, 3.0, 2.0]).passed(TRAIN, 0, 3)
    return made.fact("line", 3, TRAIN, text="a line", numbers={name: value})


def test_a_printed_loss_that_is_the_batch_size_times_the_mean_is_named() -> None:
    found = verdict(printed("train loss", 8.0), "EpochMetricMisscaled")  # 32 divided by four batches
    assert found.fired and "the batch size" in found.meaning
    assert verdict(printed("train loss", 2.0), "EpochMetricMisscaled").passed
    assert verdict(printed("train loss", 3.1), "EpochMetricMisscaled").passed
    assert verdict(printed("accuracy", 8.0), "EpochMetricMisscaled").status == "NotApplicable"


HEAD = "model.fc = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))"
TRANSFORM = (
    "Compose(\n    Resize(size=256, interpolation=bilinear)\n    CenterCrop(size=(224, 224))\n    ToTensor()\n"
    "    Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])\n)"
)
SERVED = (
    "MEAN = [0.485, 0.456, 0.406]\nT.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(),"
    " T.Normalize(MEAN, [0.229, 0.224, 0.225])])"
)


@pytest.mark.parametrize(
    ("script", "difference"),
    [
        (f"{HEAD}\n{SERVED}", None),
        (HEAD.replace("32", "16"), "trained Linear(64, 32); served Linear(64, 16)"),
        (HEAD.replace("nn.ReLU(), ", ""), "trained Linear, ReLU, Linear; served Linear, Linear"),
        (HEAD.replace("32", "width"), None),
        (SERVED.replace("0.485", "0.5"), "Normalize"),
        (SERVED.replace("T.CenterCrop(224), ", ""), "transform"),
    ],
)
def test_a_serving_script_is_compared_with_what_was_trained(
    tmp_path: Path, script: str, difference: str | None
) -> None:
    made = Made().model(linear("fc.0", 64, 32), module("fc.1", "ReLU"), linear("fc.2", 32, 10))
    made.fact("loader", number=0, transform=TRANSFORM).passed(EVAL, 0, 1)
    path = tmp_path / "inference.py"
    path.write_text(script)
    result = verdict(made, "TrainServeSkew", inference_script=str(path))
    assert result.passed if difference is None else difference in result.evidence["differences"][0]


def test_a_serving_script_that_cannot_be_read_is_no_pass(tmp_path: Path) -> None:
    path = tmp_path / "inference.py"
    path.write_text("def broken(:")
    for script in ("", str(tmp_path / "absent.py"), str(path)):
        result = verdict(Made().losses([1.0]), "TrainServeSkew", inference_script=script)
        assert result.status == "NotApplicable" and result.reason


def test_the_first_thing_that_was_not_a_number_is_named() -> None:
    made = Made().losses([1.0])
    assert verdict(made, "NotANumber").passed
    found = verdict(made.fact("nonfinite", 7, TRAIN, name="fc_output_0", what="output", module="fc"), "NotANumber")
    assert found.first_step == 7 and "'fc'" in found.meaning
