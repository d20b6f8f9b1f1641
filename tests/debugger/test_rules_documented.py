"""The rules with SageMaker's names: the numbers they compute, by hand, and where theirs misfire and ours do not."""

from __future__ import annotations

import numpy as np
import pytest
from tests.debugger.made import EVAL, LOSS, TRAIN, Made, linear, module

from finepoint.debugger.rules.checking import choose_rules, judge
from finepoint.debugger.rules.result import RuleResult


def verdict(made: Made, rule: str, **parameters: object) -> RuleResult:
    (chosen,) = choose_rules([rule], {rule: parameters})
    return judge(chosen, made.recording())


def with_gradients(*means: float, weight: float = 1.0) -> Made:
    made = Made().model(linear("a", 4, 4), linear("b", 4, 4))
    for name in ("Net_a.weight", "Net_b.weight"):
        values = means if name == "Net_a.weight" else [1e-3] * len(means)
        made.series(f"gradient/{name}", values, reduction="abs_mean")
        made.series(f"gradient/{name}", [4 * value for value in values], reduction="l2")
        made.series(name, [weight] * len(means), reduction="l2")
    return made.losses([2.0] * len(means))


def test_a_mean_absolute_gradient_below_1e_7_vanishes() -> None:
    found = verdict(with_gradients(1e-3, 9e-8, 9e-8, 9e-8), "VanishingGradient")
    # Below 1e-7 at steps 1, 2 and 3: three in a row are complete at step 3.
    assert (found.status, found.first_step) == ("IssuesFound", 3)
    assert found.evidence["mean_absolute_gradient"] == pytest.approx(9e-8)
    assert found.evidence["weights"] == ["Net_a.weight"]


def test_a_mean_absolute_gradient_above_the_threshold_does_not_vanish() -> None:
    assert verdict(with_gradients(*[1.1e-7] * 5), "VanishingGradient", ratio_threshold=0).passed
    assert verdict(with_gradients(*[1.1e-7] * 5), "VanishingGradient", ratio_threshold=0, threshold="2e-7").fired


def test_a_layer_a_hundred_thousand_times_behind_another_vanishes() -> None:
    # Relative to its weights (norm 1) the one layer has 4e-9, the other 4e-3: a millionth.
    assert verdict(with_gradients(*[1e-9] * 3), "VanishingGradient", threshold=0).fired
    assert verdict(with_gradients(*[2e-8] * 3), "VanishingGradient", threshold=0).passed


def test_gradients_may_vanish_when_the_loss_has() -> None:
    made = with_gradients(*[1e-9] * 4)
    made.losses([2.0, 2.0, 0.01, 0.01], first=4)
    late = Made().model(linear("a", 4, 4)).losses([2.0, 2.0, 2.0, 0.01, 0.01, 0.01])
    for reduction in ("abs_mean", "l2"):
        late.series("gradient/Net_a.weight", [1e-9] * 3, reduction=reduction, steps=[3, 4, 5])
    late.series("Net_a.weight", [1.0] * 6, reduction="l2")
    assert verdict(late, "VanishingGradient").passed


def test_a_frozen_backbone_has_no_gradient_that_could_vanish() -> None:
    made = Made().model(linear("a", 4, 4, trainable=False)).series("gradient/Net_a.weight", [0.0] * 5)
    result = verdict(made, "VanishingGradient")
    assert (result.status, result.reason) == ("NotApplicable", "no gradient of a trained weight was saved")


def test_gradients_saved_at_one_step_of_106_are_too_few_and_it_says_so() -> None:
    made = Made().model(linear("a", 4, 4)).series("gradient/Net_a.weight", [1e-9], reduction="abs_mean")
    result = verdict(made, "VanishingGradient")
    assert result.status == "NotApplicable" and "fewer than 3 steps were saved" in result.reason


def test_exploding_tensor_tells_infinity_from_nan() -> None:
    made = Made().series("Net_a.weight", [1.0, np.inf], reduction="abs_max").collection("weights", "Net_a.weight")
    assert verdict(made, "ExplodingTensor").first_step == 1
    assert verdict(made, "ExplodingTensor", only_nan="True").passed
    made.series("Net_a.weight", [np.nan], reduction="abs_max", steps=[2])
    assert verdict(made, "ExplodingTensor", only_nan=True, collection_names="weights").first_step == 2
    assert verdict(made, "ExplodingTensor", tensor_regex="bias").status == "NotApplicable"


def test_a_bias_that_began_at_zero_has_an_infinite_update_and_has_not_exploded() -> None:
    assert verdict(Made().series("update_ratio/Net_a.bias", [np.inf, 0.1]), "ExplodingTensor").status == "NotApplicable"


def initialised(*, stds: tuple[float, float, float], loss: list[float], gradient: float) -> Made:
    layers = [linear(name, 4, 4) for name in "abc"]
    made = Made().model(*layers).losses(loss)
    for name, std in zip("abc", stds, strict=True):
        made.series(f"Net_{name}.weight", [0.5], reduction="std").series(
            f"Net_{name}.weight", [1.0], reduction="abs_max"
        )
        made.series(f"{name}_output_0", [std], reduction="std")
        made.series(f"gradient/Net_{name}.weight", [gradient], reduction="std")
    return made


def test_poor_initialisation_needs_all_three_signs() -> None:
    flat = [2.3] + [2.31] * 12
    # Variances 1, 0.04, 0.01: the largest is 100 times the smallest. 3.3 x 2e-4 is below the range of 0.001.
    all_three = initialised(stds=(1.0, 0.2, 0.1), loss=flat, gradient=2e-4)
    found = verdict(all_three, "PoorWeightInitialization")
    assert found.fired and found.evidence["variance_ratio"] == pytest.approx(100)
    assert found.evidence["gradient_range"] == pytest.approx(6.6e-4)
    assert verdict(initialised(stds=(1.0, 0.2, 0.1), loss=flat, gradient=2e-2), "PoorWeightInitialization").passed
    falling = initialised(stds=(1.0, 0.2, 0.1), loss=[2.3 - 0.1 * i for i in range(13)], gradient=2e-4)
    assert verdict(falling, "PoorWeightInitialization").passed
    # Variances 1, 0.25, 0.16: a ratio of 6.25.
    assert verdict(initialised(stds=(1.0, 0.5, 0.4), loss=flat, gradient=2e-4), "PoorWeightInitialization").passed


def test_constant_weights_are_poor_but_a_last_layer_may_begin_at_zero() -> None:
    made = Made().model(linear("a", 4, 4), linear("b", 4, 4))
    made.series("Net_a.weight", [0.0], reduction="std").series("Net_b.weight", [0.4], reduction="std")
    assert verdict(made, "PoorWeightInitialization").fired
    made = Made().model(linear("a", 4, 4), linear("b", 4, 4)).losses([2.3])
    made.series("Net_a.weight", [0.4], reduction="std").series("Net_b.weight", [0.0], reduction="std")
    made.series("Net_a.weight", [1.0], reduction="abs_max")
    assert verdict(made, "PoorWeightInitialization").passed


def test_a_relu_is_dead_that_is_active_in_less_than_1_percent_of_the_samples() -> None:
    # Of 4 units over 4 samples: one active in all, one in one sample, two in none: 50 percent are dead.
    outputs = np.array([[1, 0, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    three_dead = outputs * np.array([1, 0, 0, 0])
    at_half = Made().tensor("relu_output_0", outputs, outputs, outputs)
    assert verdict(at_half, "DeadRelu").evidence == {"most_dead_percent": 50.0}
    found = verdict(Made().tensor("relu_output_0", three_dead, three_dead, three_dead), "DeadRelu")
    assert (found.first_step, found.evidence["layers"]) == (2, ["relu_output_0"])
    # Active in 25 percent of the samples is inactive at a threshold of 30: then three of four are dead.
    assert verdict(at_half, "DeadRelu", threshold_inactivity="30.0").fired
    assert verdict(at_half, "DeadRelu", threshold_inactivity=30, threshold_layer="80").passed


def test_frozen_relus_are_not_looked_at() -> None:
    made = Made().model(linear("a", 4, 4, trainable=False), module("relu", "ReLU"), linear("head", 4, 2))
    made.series("dead_fraction/relu_output_0", [0.9] * 5)
    assert verdict(made, "DeadRelu").status == "NotApplicable"


def test_half_of_a_narrow_layer_may_be_silent_by_chance() -> None:
    # 64 units: 0.5 + 4 x sqrt(0.25 / 64) = 0.75.
    for share, fires in ((0.74, False), (0.76, True)):
        made = (
            Made().model(linear("a", 4, 64), module("relu", "ReLU")).series("dead_fraction/relu_output_0", [share] * 3)
        )
        assert verdict(made, "DeadRelu").fired is fires


def test_a_tanh_is_saturated_whose_inputs_lie_beyond_9_5() -> None:
    # Three of four units are beyond the bounds for every sample: 75 percent.
    inputs = np.array([[0.0, 20, -20, 10], [1.0, 20, -20, 10]])
    made = Made().tensor("tanh_input_0", inputs, inputs, inputs)
    found = verdict(made, "SaturatedActivation")
    assert found.fired and found.meaning.startswith("75%")
    assert verdict(made, "SaturatedActivation", threshold_tanh_max="11", threshold_tanh_min=-25).passed
    last = Made().model(linear("a", 4, 4), module("b", "Sigmoid")).series("saturated_fraction/b_output_0", [0.9] * 3)
    assert verdict(last, "SaturatedActivation").status == "NotApplicable"  # the model's output
    sigmoid = Made().tensor("sigmoid_input_0", inputs, inputs, inputs)  # only 20 is above 16.99999: 25 percent
    assert verdict(sigmoid, "SaturatedActivation").passed


def updates(*ratios: float, rates: tuple[float, ...] = ()) -> Made:
    made = Made().model(linear("a", 4, 4)).series("update_ratio/Net_a.weight", ratios)
    return made.series("learning_rate/group0", rates) if rates else made


def test_updates_beyond_10_and_below_1e_8_of_the_weights_are_found() -> None:
    assert verdict(updates(0.1, 11.0, 11.0), "WeightUpdateRatio").first_step == 2
    assert verdict(updates(9.9, 9.9, 9.9), "WeightUpdateRatio").passed
    assert verdict(updates(9e-9, 9e-9, 9e-9), "WeightUpdateRatio").first_step == 2
    assert verdict(updates(1.1e-8, 1.1e-8, 1.1e-8), "WeightUpdateRatio").passed
    assert verdict(updates(1e-3, 1e-3), "WeightUpdateRatio").status == "NotApplicable"


def test_updates_between_whole_weights_are_mean_absolute_ones() -> None:
    # |2-1| and |4-2| over |1| and |2|: means 1.5 and 1.5, a ratio of 1; then 3 / 3, and so on.
    made = Made().model(linear("a", 2, 2))
    made.tensor("Net_a.weight", *([[2.0**step, 2.0 ** (step + 1)]] for step in range(5)))
    result = verdict(made, "WeightUpdateRatio")
    assert result.evidence == pytest.approx({"lowest": 1.0, "highest": 1.0})
    assert verdict(made, "WeightUpdateRatio", large_threshold="0.9").fired
    # Two steps apart: (4-1 + 8-2) / (1+2) = 3.
    assert verdict(made, "WeightUpdateRatio", num_steps=2).evidence["highest"] == pytest.approx(3.0)


def test_the_ends_of_a_schedule_and_weights_that_begin_at_zero_change_as_they_must() -> None:
    cosine = updates(1e-3, 1e-3, 1e-9, 0.0, 0.0, rates=(0.1, 0.1, 1e-4, 0.0, 0.0))
    assert verdict(cosine, "WeightUpdateRatio").passed
    assert verdict(updates(float("inf"), 0.5, 0.1, 0.1), "WeightUpdateRatio").passed


def test_all_zero_counts_zeros() -> None:
    made = Made().tensor("Net_a.weight", [0, 0, 0, 1], [0, 0, 0, 0]).collection("weights", "Net_a.weight")
    assert verdict(made, "AllZero", collection_names="weights").first_step == 1
    assert verdict(made, "AllZero", tensor_regex="weight", threshold=75).first_step == 0
    by_norm = Made().series("Net_a.weight", [0.0], reduction="abs_max").collection("weights", "Net_a.weight")
    assert verdict(by_norm, "AllZero", collection_names="weights").fired
    assert verdict(made, "AllZero").status == "NotApplicable"


def test_unchanged_tensor_compares_as_allclose_does() -> None:
    # 1 + 9e-6 differs from 1 by less than 1e-8 + 1e-5; three saved steps alike are found at the third.
    made = Made().tensor("x", [1.0], [2.0], [2.0 + 1.8e-5], [2.0 + 1.8e-5])
    assert verdict(made, "UnchangedTensor", tensor_regex="x").first_step == 3
    assert verdict(made, "UnchangedTensor", tensor_regex="x", rtol=1e-7, num_steps="2").first_step == 3
    assert verdict(made, "UnchangedTensor", tensor_regex="x", num_steps=4).passed
    nan = Made().tensor("x", [np.nan], [np.nan], [np.nan])
    assert verdict(nan, "UnchangedTensor", tensor_regex="x").passed
    assert verdict(nan, "UnchangedTensor", tensor_regex="x", equal_nan="true").fired


def test_tensor_variance_is_that_of_numpy_and_needs_a_bound() -> None:
    # The mean of 1 and 5 is 3, their variance 4.
    made = Made().tensor("x", [1.0, 5.0])
    assert verdict(made, "TensorVariance", tensor_regex="x", max_threshold=3.9).fired
    assert verdict(made, "TensorVariance", tensor_regex="x", min_threshold=4.1).fired
    assert verdict(made, "TensorVariance", tensor_regex="x", min_threshold=3.9, max_threshold="4.1").passed
    assert verdict(made, "TensorVariance", tensor_regex="x").status == "NotApplicable"
    reduced = Made().series("x", [3.0], reduction="std")
    assert verdict(reduced, "TensorVariance", tensor_regex="x", max_threshold=8.9).fired  # 3 squared is 9


def test_similar_across_runs_finds_the_first_difference(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from finepoint.debugger.writing import RecordingWriter

    writer = RecordingWriter(tmp_path)
    for step, value in enumerate([2.0, 1.5, 1.2]):
        writer.values(step, TRAIN, {(LOSS, "mean"): value})
    writer.close()
    same = Made().losses([2.0, 1.5, 1.2])
    assert verdict(same, "SimilarAcrossRuns", other_trial=str(tmp_path)).evidence == {"values_compared": 3}
    assert verdict(Made().losses([2.0, 1.5, 1.3]), "SimilarAcrossRuns", other_trial=str(tmp_path)).first_step == 2
    assert verdict(same, "SimilarAcrossRuns").status == "NotApplicable"
    assert verdict(same, "SimilarAcrossRuns", other_trial="nowhere").status == "NotApplicable"


def test_a_loss_that_rises_is_found_after_three_windows_of_ten() -> None:
    # Means of ten: 2.0, 2.3, 2.3; the third window ends at step 29.
    found = verdict(Made().losses([2.0] * 10 + [2.3] * 20), "LossNotDecreasing")
    assert (found.first_step, found.evidence["first"], found.evidence["now"]) == (29, 2.0, pytest.approx(2.3))
    assert verdict(Made().losses([2.0] * 10 + [1.9] * 20), "LossNotDecreasing").passed
    assert verdict(Made().losses([2.0] * 10 + [1.9] * 210), "LossNotDecreasing", diff_percent="10").fired


def test_a_flat_loss_is_found_once_a_slow_start_would_be_over() -> None:
    assert verdict(Made().losses([2.08] * 60), "LossNotDecreasing").passed
    assert verdict(Made().losses([2.08] * 130), "LossNotDecreasing").passed
    assert verdict(Made().losses([2.08] * 230), "LossNotDecreasing").first_step == 199
    still = Made().model(linear("a", 4, 4)).losses([2.08] * 40).series("update_ratio/Net_a.weight", [0.0] * 40)
    assert verdict(still, "LossNotDecreasing").first_step == 29


def epochs(train: list[float], valid: list[float]) -> Made:
    """Passes of two batches each, training and evaluation in turn."""
    made = Made()
    for number, (a, b) in enumerate(zip(train, valid, strict=True)):
        made.losses([a, a], first=2 * number).losses([b, b], EVAL, first=2 * number)
        made.passed(TRAIN, 2 * number, 2 * number + 1, number=number)
        made.passed(EVAL, 2 * number, 2 * number + 1, loader=1, number=number)
    return made


def test_a_loss_that_rises_from_pass_to_pass_is_found_before_a_slow_start_would_be_over() -> None:
    # Each pass has two batches, too few for windows of its own: 12 losses are compared in windows of 4.
    rising = [2.08, 2.09, 2.1, 2.11, 2.12, 2.13]
    found = verdict(epochs(rising, rising), "LossNotDecreasing")
    assert (found.first_step, found.mode, found.evidence["now"]) == (5, "EVAL", pytest.approx(2.1))
    assert verdict(epochs([2.08, 2.07, 2.1, 2.11, 2.12, 2.13], rising), "LossNotDecreasing").passed


def test_overfit_compares_validation_with_training_loss() -> None:
    # At the fourth and fifth evaluation (1.0 - 0.4) / 0.4 is 1.5 and (1.2 - 0.3) / 0.3 is 3, and both are
    # more than a tenth above the lowest, 0.8: more than `patience` (1) in a row.
    made = epochs([1.0, 0.7, 0.5, 0.4, 0.3], [0.9, 0.8, 0.8, 1.0, 1.2])
    found = verdict(made, "Overfit")
    assert (found.first_step, found.mode, found.evidence["best_evaluation"]) == (9, "EVAL", 2)
    assert verdict(made, "Overfit", patience="2").passed
    assert verdict(made, "Overfit", ratio_threshold=3.5).passed
    assert verdict(made, "Overfit", start_step=6).status == "NotApplicable"


def test_a_gap_between_the_losses_is_no_overfitting_while_validation_improves() -> None:
    assert verdict(epochs([1.0, 0.5, 0.3, 0.2], [1.0, 0.9, 0.8, 0.79]), "Overfit").passed


def test_overtraining_counts_evaluations_without_improvement() -> None:
    # Lowest at the second evaluation, training stuck from the second: the eleventh after it is evaluation 13.
    valid = [1.0, 0.5] + [0.5] * 12
    found = verdict(epochs([1.0, 0.4] + [0.4] * 12, valid), "Overtraining")
    assert (found.first_step, found.evidence["best_evaluation"]) == (25, 2)
    falling = [1.0 * 0.8**number for number in range(14)]
    assert verdict(epochs(falling, [value + 0.01 for value in falling]), "Overtraining").passed
    assert verdict(epochs([1.0, 0.4], [1.0, 0.5]), "Overtraining").status == "NotApplicable"


def images(low: float, mean: float, high: float) -> Made:
    made = Made().losses([2.0] * 200).fact("sample_input", 0, TRAIN, shape=[4, 3, 8, 8], dtype="float32")
    for reduction, value in (("min", low), ("mean", mean), ("max", high)):
        made.series("input", [value] * 200, reduction=reduction)
        for channel in range(3):
            made.series(f"input/channel{channel}", [value] * 200, reduction=reduction)
    return made


def test_images_whose_mean_is_not_zero_are_found_after_500_of_them() -> None:
    # Batches of 4: the 500th image is in batch 124.
    assert verdict(images(0.0, 0.45, 1.0), "CheckInputImages").first_step == 124
    assert verdict(images(0.0, 0.45, 1.0), "CheckInputImages", threshold_mean=0.5).passed


def test_white_photographs_that_are_normalised_pass() -> None:
    assert verdict(images(-2.1, 1.0, 2.6), "CheckInputImages").passed


def labels(counts: dict[int, int], **loss: bool) -> Made:
    made = Made().fact("loss", 0, TRAIN, function="cross_entropy", weighted=False, **loss) if not loss else Made()
    if loss:
        made.fact("loss", 0, TRAIN, function="cross_entropy", **loss)
    return made.fact("pass_labels", 9, TRAIN, loader=0, number=0, histogram=counts)


def test_imbalance_is_the_largest_over_the_smallest_class() -> None:
    assert verdict(labels({0: 110, 1: 10}), "ClassImbalance").evidence["ratio"] == 11
    assert verdict(labels({0: 100, 1: 10}), "ClassImbalance").passed
    assert verdict(labels({0: 100, 1: 10}), "ClassImbalance", threshold_imbalance="9").fired
    assert verdict(labels({0: 110, 1: 10}, weighted=True), "ClassImbalance").passed
    missed = labels({0: 110, 1: 10}, weighted=True)
    # Of class 1 nine of ten are mispredicted: 0.9 is above 0.7 although the loss is weighted.
    missed.fact("confusion", 3, EVAL, classes=2, counts=[[0, 0, 10], [1, 0, 9], [1, 1, 1]])
    assert verdict(missed, "ClassImbalance").evidence["mispredicted"] == pytest.approx(0.9)


def test_a_few_batches_are_unbalanced_by_chance() -> None:
    made = Made()
    for step in range(10):
        made.fact("labels", step, TRAIN, histogram={0: 45, 1: 5}, classes=2)
    # 450 and 50 of 500: (450 - 2.6 x 21.2) / (50 + 2.6 x 7.1 + 1) = 5.7.
    assert verdict(made, "ClassImbalance").evidence["ratio"] == pytest.approx(5.69, abs=0.01)
    assert verdict(Made(), "ClassImbalance").status == "NotApplicable"


def test_a_whole_pass_without_a_loader_is_counted_as_it_is() -> None:
    made = Made().losses([2.0] * 5).losses([2.0], EVAL).losses([2.0], first=5)
    for step in range(5):
        made.fact("labels", step, TRAIN, histogram={0: 11, 1: int(step < 3)}, classes=2)
    assert verdict(made, "ClassImbalance").evidence["ratio"] == pytest.approx(55 / 3)


def test_confusion_divides_by_the_class() -> None:
    # Class 2: 2 of 20 right, 17 taken for class 1. All together 92 of 120... of 140: (50 + 68 + 2) / 140 = 0.857.
    counts = [[0, 0, 50], [1, 1, 68], [1, 2, 2], [2, 2, 2], [2, 1, 17], [2, 0, 1]]
    made = Made().fact("confusion", 7, EVAL, classes=3, counts=counts)
    found = verdict(made, "Confusion")
    assert found.evidence["classes"] == [{"label": 2, "right": pytest.approx(0.1), "taken_for": 1}]
    assert found.evidence["accuracy"] == pytest.approx(120 / 140)
    # Without class 2: 118 of 120 right, by which a class counts; all together may be below 0.8.
    weak = [[0, 0, 10], [1, 1, 9], [1, 0, 1], [2, 2, 0], [2, 1, 10]]
    assert verdict(Made().fact("confusion", 7, EVAL, classes=3, counts=weak), "Confusion").fired
    assert verdict(made, "Confusion", min_diag="0.05").passed
    assert verdict(made, "Confusion", max_off_diag=0.9).passed


def test_a_job_has_stalled_when_nothing_came_for_1800_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import finepoint.debugger.writing as writing

    now = [1000.0]
    monkeypatch.setattr(writing.time, "time", lambda: now[0])
    made = Made()
    for step, seconds in enumerate((1.0, 1.0, 1801.0)):
        now[0] += seconds
        made.losses([2.0], first=step)
    found = verdict(made, "StalledTrainingRule")
    assert found.fired and found.evidence["gap_seconds"] == pytest.approx(1801)
    assert verdict(made, "StalledTrainingRule", threshold="1802").passed
    assert verdict(made, "StalledTrainingRule", threshold=1802, now=now[0] + 1803).fired
