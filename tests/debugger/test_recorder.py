"""Attached from outside, the recorder finds model, losses, optimizers and loaders, and counts steps by mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.debugger.models import Net, attached, batches, evaluate, recorded, train
from torch import nn
from torch.nn import functional
from torch.nn.functional import nll_loss
from torch.utils.data import DataLoader, Subset, TensorDataset

from finepoint.debugger import modes
from finepoint.debugger.observers.lines import named_numbers
from finepoint.debugger.rules.activations import DeadRelu


def test_names_steps_and_modes_are_found(tmp_path: Path) -> None:
    model = Net()
    with attached(tmp_path):
        train(model, 3)
        evaluate(model, 2)
        train(model, 1)
    recording = recorded(tmp_path)
    assert recording.steps(modes.TRAIN) == [0, 1, 2, 3] and recording.steps(modes.EVAL) == [0, 1]
    assert recording.series("CrossEntropyLoss_output_0", mode=modes.TRAIN).global_steps.tolist() == [0, 1, 2, 5]
    names = recording.names()
    assert {"Net_conv.weight", "gradient/Net_fc.bias", "norm_output_0", "relu_output_2", "again_output_1"} <= set(names)
    assert not [name for name in names if "twin" in name]
    assert recording.collections["gradients"] == {name for name in names if name.startswith("gradient/")}


def test_reductions_are_those_of_numpy(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3))
    weight = model[0].weight.detach().numpy().copy()
    images, labels = torch.randn(16, 5), torch.randint(0, 3, (16,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with attached(tmp_path):
        logits = model(images)
        functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    recording = recorded(tmp_path)
    gradient = model[0].weight.grad.numpy()

    def saved(name: str, reduction: str = "value") -> float:
        return float(recording.series(name, reduction).values[0])

    assert saved("Sequential_0.weight", "mean") == pytest.approx(weight.mean(), abs=1e-7)
    assert saved("Sequential_0.weight", "std") == pytest.approx(weight.std(ddof=1), rel=1e-5)
    assert saved("Sequential_0.weight", "abs_max") == pytest.approx(np.abs(weight).max())
    assert saved("gradient/Sequential_0.weight", "l2") == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert saved("gradient/Sequential_0.weight", "abs_mean") == pytest.approx(np.abs(gradient).mean(), rel=1e-5)
    assert saved("0_output_0", "max") == pytest.approx(logits.max().item())
    moved = np.linalg.norm(0.1 * gradient) / np.linalg.norm(weight)
    assert saved("update_ratio/Sequential_0.weight") == pytest.approx(moved, rel=1e-4)
    assert saved("learning_rate/group0") == 0.1
    assert saved("logits_correct") == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_dead_and_zero_fractions(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([1.0, -1.0, -1.0, 2.0]))
    with attached(tmp_path):
        functional.cross_entropy(model(torch.zeros(3, 2)), torch.zeros(3, dtype=torch.int64))
    recording = recorded(tmp_path)
    assert recording.series("dead_fraction/1_output_0").values.tolist() == [0.5]
    assert recording.series("zero_fraction/1_output_0").values.tolist() == [0.5]


class Functional(nn.Module):
    """Activations called as functions: behind a frozen layer, behind a trained one, and a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.trained, self.last = nn.Linear(192, 3).requires_grad_(False), nn.Linear(3, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU()
        with torch.no_grad():
            self.trained.weight.zero_()
            self.trained.bias.copy_(torch.tensor([1.0, -1.0, -1.0, -2.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.trained(functional.relu(self.frozen(images.flatten(1)))))
        return self.last(self.relu(torch.tanh(hidden)))


def test_activations_called_as_functions_are_seen_behind_what_is_trained(tmp_path: Path) -> None:
    model, original = Functional(), functional.relu
    with attached(tmp_path):
        train(model, 3)
    recording = recorded(tmp_path)
    assert recording.names("_fraction/(?!gradient)") == [
        "dead_fraction/Functional.relu_output_1",
        "dead_fraction/relu_output_0",
        "saturated_fraction/Functional.tanh_output_0",
        "zero_fraction/Functional.relu_output_1",
        "zero_fraction/relu_output_0",
    ]
    assert recording.series("dead_fraction/Functional.relu_output_1").values[0] == 0.75
    assert {fact["units"] for fact in recording.facts("activation")} == {4}
    assert functional.relu is original
    assert DeadRelu().judge(recording).evidence == {"most_dead_percent": 75.0}


@pytest.mark.parametrize(
    ("end", "operations"),
    [
        (lambda x: x, []),
        (torch.relu, ["relu"]),
        (lambda x: x.softmax(1), ["softmax"]),
        (lambda x: functional.relu(x).sigmoid(), ["relu", "sigmoid"]),
        (lambda x: x.clamp(min=0).view(4, 3), ["clamp"]),
    ],
)
def test_what_became_of_the_logits_is_read_off_the_graph(tmp_path: Path, end: object, operations: list[str]) -> None:
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    with attached(tmp_path):
        functional.cross_entropy(end(model(torch.randn(4, 2))), torch.tensor([0, 1, 2, 0]))  # type: ignore[operator]
    (loss,) = recorded(tmp_path).facts("loss")
    assert loss["operations"] == operations and loss["expects"] == "logits"
    assert loss["linear"]["out_features"] == 3 and loss["linear"]["parameter"].startswith("Sequential_2.")


def test_a_loss_imported_by_name_is_seen(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    with attached(tmp_path):
        nll_loss(model(torch.zeros(2, 2)), torch.tensor([0, 1]))
    assert len(recorded(tmp_path).series("NLLLoss_output_0")) == 1


def test_optimizers_tell_what_they_hold_and_what_they_lack(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam([*model[0].parameters(), *model[1].parameters()], 0.01)
    with attached(tmp_path):
        functional.cross_entropy(model(torch.zeros(2, 2)), torch.tensor([0, 1])).backward()
        optimizer.step()
    recording = recorded(tmp_path)
    (fact,) = recording.facts("optimizer")
    assert fact["class_name"] == "Adam" and fact["groups"][0]["lr"] == 0.01
    assert fact["not_in_optimizer"] == ["Sequential_2.weight", "Sequential_2.bias"]
    assert recording.facts("no_gradient")[0]["parameters"] == ["Sequential_0.bias", "Sequential_0.weight"]
    frozen = {item["name"]: item["frozen"] for item in recording.facts("model")[0]["modules"]}
    assert frozen == {"": False, "0": True, "1": False, "2": False}


def test_accumulated_gradients_are_saved_whole(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with attached(tmp_path):
        for images in torch.randn(4, 3, 2):
            functional.cross_entropy(model(images), torch.tensor([0, 1, 0])).backward()
        whole = model.weight.grad.norm().item()  # type: ignore[union-attr]
        optimizer.step()
    recording = recorded(tmp_path)
    series = recording.series("gradient/Linear_weight", "l2")
    assert series.steps.tolist() == [3] and series.values[0] == pytest.approx(whole)
    assert recording.series("backward_calls").values.tolist() == [4]


def test_parts_of_a_data_set_are_told_apart_by_their_samples(tmp_path: Path) -> None:
    model, data = nn.Linear(3, 2), TensorDataset(torch.randn(10, 3), torch.tensor([0, 1] * 5))
    data.root = tmp_path  # type: ignore[attr-defined]
    parts = [Subset(data, range(5)), Subset(data, range(5, 10)), Subset(data, range(5))]
    with attached(tmp_path / "job"):
        for part in parts:
            for images, labels in DataLoader(part, 5):
                functional.cross_entropy(model(images), labels)
    first, second, third = (fact["source"] for fact in recorded(tmp_path / "job").facts("loader"))
    assert first == third != second and first.startswith(f"{tmp_path} TensorDataset")


def test_loaders_and_passes(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    data = TensorDataset(torch.randn(10, 3), torch.tensor([0, 1] * 5))
    with attached(tmp_path):
        for _ in range(2):
            model.train()
            for images, labels in DataLoader(data, 4, shuffle=True):
                functional.cross_entropy(model(images), labels)
            model.eval()
            for images, labels in DataLoader(data, 5):
                functional.cross_entropy(model(images), labels)
                break
    recording = recorded(tmp_path)
    assert [(fact["number"], fact["shuffle"], fact["length"]) for fact in recording.facts("loader")] == [
        (0, True, 10),
        (1, False, 10),
    ]
    told = [(f["mode"], f["number"], f["first_step"], f["last_step"], f["exhausted"]) for f in recording.facts("pass")]
    assert told == [
        ("TRAIN", 0, 0, 2, True),
        ("EVAL", 0, 0, 0, False),
        ("TRAIN", 1, 3, 5, True),
        ("EVAL", 1, 1, 1, False),
    ]
    assert recording.facts("pass_labels")[0]["histogram"] == {"0": 5, "1": 5}


def test_evaluation_samples_have_fingerprints_that_tell_whether_they_changed(tmp_path: Path) -> None:
    model = nn.Linear(3, 2).eval()
    images = torch.randn(4, 3)
    with attached(tmp_path):
        for noise in (0.0, 0.0, 0.1):
            for batch in DataLoader(TensorDataset(images + noise * torch.randn(4, 3)), 4):
                model(*batch)
    first, second, third = (fact["samples"] for fact in recorded(tmp_path).facts("evaluation_batch"))
    assert first == second and not set(first) & set(third)


def test_dropout_left_on_while_evaluating_is_told(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with attached(tmp_path), torch.no_grad():
        model(torch.zeros(1, 2))
        model.eval()(torch.zeros(1, 2))
    assert [fact["training_modules"] for fact in recorded(tmp_path).facts("evaluation")] == [["1"], []]


def test_the_first_tensor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with attached(tmp_path):
        model(torch.zeros(1, 2))
        with torch.no_grad():
            model[2].bias[0] = float("nan")
        functional.cross_entropy(model(torch.zeros(1, 2)), torch.tensor([0]))
    (fact,) = recorded(tmp_path).facts("nonfinite")
    assert (fact["name"], fact["what"], fact["step"]) == ("Sequential_2.bias", "parameter", 1)


def test_a_loss_that_is_not_finite_has_the_next_step_saved_whatever_the_budget(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with attached(tmp_path, share=1e-9):
        for step in range(20):
            scale = float("inf") if step == 11 else 1.0
            functional.cross_entropy(model(torch.ones(1, 2) * scale), torch.tensor([0]))
    assert recorded(tmp_path).series("Linear_weight", "l2").steps.tolist() == [0, 1, 2, 4, 8, 12]


def test_without_budget_only_the_first_steps_are_saved_but_every_loss(tmp_path: Path) -> None:
    model = Net()
    with attached(tmp_path, share=1e-9) as recorder:
        recorder.budget.stride = 1
        for images, labels in batches(20):
            functional.cross_entropy(model(images), labels)
    recording = recorded(tmp_path)
    assert recording.series("conv_output_0").steps.tolist() == [0, 1, 2, 4, 8]
    assert recording.series("CrossEntropyLoss_output_0").steps.tolist() == list(range(20))


def test_where_steps_are_tiny_most_are_passed_over_and_the_recording_says_so(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with attached(tmp_path, share=1e-4) as recorder:
        for _ in range(400):
            optimizer.zero_grad()
            functional.cross_entropy(model(torch.ones(1, 2)), torch.tensor([0])).backward()
            optimizer.step()
        assert recorder.budget.stride >= 8 and recorder.numbers[modes.TRAIN] == 399
    recording = recorded(tmp_path)
    assert len(recording.series("CrossEntropyLoss_output_0")) < 200
    assert "steps are so short" in recording.notes[0]
    late = recording.series("zero_grad_calls").values[-1]
    assert late == recording.series("backward_calls").values[-1] == 1


def test_a_frozen_backbone_called_by_itself_does_not_hide_the_head(tmp_path: Path) -> None:
    backbone, head = nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 2)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    with attached(tmp_path):
        for _ in range(3):
            with torch.no_grad():
                features = backbone(torch.randn(5, 4))
            functional.cross_entropy(head(features), torch.zeros(5, dtype=torch.int64)).backward()
            optimizer.step()
    recording = recorded(tmp_path)
    assert recording.steps(modes.TRAIN) == [0, 1, 2]
    assert len(recording.facts("model")) == 2 and len(recording.series("CrossEntropyLoss_output_0")) == 3


def test_printed_metrics_are_named() -> None:
    assert named_numbers("loss=0.5 | acc: 91.2%") == {"loss": 0.5, "acc": 91.2}
    assert named_numbers("nothing to see") == {}


def test_off_leaves_no_patch_behind(tmp_path: Path) -> None:
    before = (
        functional.cross_entropy,
        torch.autograd.backward,
        DataLoader.__iter__,
        nn.Module.zero_grad,
        torch.compile,
    )
    with attached(tmp_path):
        train(Net(), 1)
        assert functional.cross_entropy is not before[0]
    after = (functional.cross_entropy, torch.autograd.backward, DataLoader.__iter__, nn.Module.zero_grad, torch.compile)
    assert after == before
    assert not torch.nn.modules.module._has_any_global_hook() and "__call__" not in vars(Net)
