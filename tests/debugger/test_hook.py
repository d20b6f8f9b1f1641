"""The hook's own switches: intervals by mode, collections, reductions, whole tensors, its file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.debugger.models import Net, batches, recorded, train
from torch import nn
from torch.nn import functional

from finepoint.debugger import Hook, Recording, ReductionConfig, SaveConfig, SaveConfigMode, modes
from finepoint.debugger.hook_file import read_hook_file
from finepoint.errors import ConfigurationError


def _record(hook: Hook, model: nn.Module, training: int, evaluation: int) -> None:
    loss = nn.CrossEntropyLoss()
    hook.register_module(model)
    hook.register_loss(loss)
    for mode, count in ((modes.TRAIN, training), (modes.EVAL, evaluation)):
        hook.set_mode(mode)
        for images, labels in batches(count):
            loss(model(images), labels).backward()


def test_each_mode_has_its_interval_and_counts_for_itself(tmp_path: Path) -> None:
    save = SaveConfig({modes.TRAIN: SaveConfigMode(10), modes.EVAL: SaveConfigMode(1, start_step=1, end_step=3)})
    with Hook(tmp_path, save_config=save) as hook:
        _record(hook, Net(), 21, 4)
    recording = recorded(tmp_path)
    assert recording.series("CrossEntropyLoss_output_0", mode=modes.TRAIN).steps.tolist() == [0, 10, 20]
    assert recording.series("conv_output_0", mode=modes.EVAL).steps.tolist() == [1, 2]


def test_own_collections_and_whole_tensors_on_request(tmp_path: Path) -> None:
    model = Net()
    hook = Hook(tmp_path, include_collections=["mine"], save_config=SaveConfig(save_interval=1))
    hook.get_collection("mine").include("fc.*weight")
    hook.get_collection("mine").reduction_config = ReductionConfig(norms=["l1"], save_raw_tensor=True)
    with hook:
        _record(hook, model, 1, 0)
    recording = recorded(tmp_path)
    weight = model.fc.weight.detach().numpy()
    assert np.array_equal(recording.tensor("Net_fc.weight", 0), weight)
    assert recording.series("Net_fc.weight", "l1").values[0] == pytest.approx(np.abs(weight).sum(), rel=1e-5)
    assert not recording.names("conv") and recording.collections["mine"] == {"Net_fc.weight"}


def test_a_hook_writes_event_files_where_it_is_asked_to(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Hook(tmp_path / "job", export_tensorboard=True, tensorboard_dir=str(tmp_path / "events")) as hook:
        _record(hook, Net(), 3, 0)
    events = EventAccumulator(str(tmp_path / "events" / "train")).Reload()
    assert [event.step for event in events.Scalars("CrossEntropyLoss_output_0")] == [0, 1, 2]


def test_without_tensorboard_a_hook_says_so_and_the_recording_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with (
        pytest.warns(UserWarning, match=r"no TensorBoard events were written.*finepoint\[tensorboard\]"),
        Hook(tmp_path, export_tensorboard=True) as hook,
    ):
        _record(hook, Net(), 1, 0)
    assert "CrossEntropyLoss_output_0" in recorded(tmp_path).names()


def test_an_output_collection_by_module(tmp_path: Path) -> None:
    model = Net()
    hook = Hook(tmp_path, include_collections=["pair"], save_config=SaveConfig(save_interval=1))
    hook.get_collection("pair").add_module_tensors(model.fc, inputs=True)
    with hook:
        _record(hook, model, 1, 0)
    assert {"fc_input_0", "fc_output_0"} <= set(recorded(tmp_path).names())


def test_inputs_and_optimizer_variables_are_saved_when_asked_for(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    included = ["inputs", "relu_input", "optimizer_variables"]
    with Hook(tmp_path, include_collections=included, save_config=SaveConfig(save_interval=1)) as hook:
        hook.register_module(model)
        for images, labels in batches(2):
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    recording = recorded(tmp_path)
    assert recording.series("optimizer/exp_avg/Net_fc.weight", "l2").steps.tolist() == [1]
    assert {"fc_input_0", "relu_input_2"} <= set(recording.names())
    assert recording.collections["relu_input"] == {"relu_input_0", "relu_input_1", "relu_input_2"}


def test_scalars_and_a_loss_of_ones_own(tmp_path: Path) -> None:
    class SmoothLoss(nn.Module):
        def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(logits, labels, label_smoothing=0.1)

    model, loss = nn.Linear(2, 2), SmoothLoss()
    with Hook(tmp_path) as hook:
        hook.register_module(model)
        hook.register_loss(loss)
        value = loss(model(torch.zeros(1, 2)), torch.tensor([0]))
        hook.save_scalar("accuracy", torch.tensor(0.5))
    recording = recorded(tmp_path)
    assert recording.series("SmoothLoss_output_0").values[0] == pytest.approx(value.item())
    assert not recording.names("CrossEntropyLoss") and recording.series("scalar/accuracy").values.tolist() == [0.5]


def test_mistakes_are_told(tmp_path: Path) -> None:
    hook = Hook(tmp_path / "a")
    with pytest.raises(ConfigurationError, match="register_module was given a str"):
        hook.register_module("model")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="must be one of"):
        hook.set_mode("TRAIN")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="has 2 values"):
        hook.save_scalar("two", [1, 2])
    hook.get_collection("empty")
    with pytest.raises(ConfigurationError, match="'empty' holds nothing"):
        hook.register_module(Net())
    hook.close()
    with pytest.raises(ConfigurationError, match="'median' is not known"):
        ReductionConfig(reductions=["median"])
    with Hook(tmp_path / "b") as done:
        _record(done, Net(), 1, 0)
    with pytest.raises(ConfigurationError, match="finished recording"):
        Hook(tmp_path / "b")


def test_a_hook_that_is_dry_or_of_another_rank_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    for hook in (Hook(tmp_path / "x", dry_run=True), Hook(tmp_path / "x", include_workers="one")):
        with hook:
            _record(hook, Net(), 1, 1)
    assert not (tmp_path / "x").exists()


def test_the_hook_measures_its_own_cost(tmp_path: Path) -> None:
    with Hook(tmp_path, save_config=SaveConfig(save_interval=1)) as hook:
        hook.register_module(model := Net())
        train(model, 5)
        assert hook.overhead_fraction > 0
    fact = Recording.open(tmp_path).facts("overhead")[-1]
    assert fact["fraction"] == pytest.approx(
        fact["hook_seconds"] / (fact["job_seconds"] - fact["hook_seconds"]), rel=1e-2
    )


def test_a_hook_file_says_what_smdebugs_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "debughookconfig.json"
    values = {
        "LocalPath": str(tmp_path / "out"),
        "HookParameters": {"save_interval": "100", "train.save_interval": "10", "reductions": "mean,abs_max,l2_norm"},
        "CollectionConfigurations": [
            {"CollectionName": "gradients", "CollectionParameters": {"eval.save_steps": "3, 5", "end_step": "7"}},
            {"CollectionName": "own", "CollectionParameters": {"include_regex": "a,b", "reductions": "min"}},
        ],
    }
    file.write_text(json.dumps(values))
    monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(file))
    read = read_hook_file()
    assert read.out_dir == tmp_path / "out" and read.include_collections == ["gradients", "own"]
    assert read.reduction_config is not None and read.reduction_config.names == ("mean", "abs_max", "l2")
    gradients, own = read.collections
    assert gradients.save_config is not None and own.include_regex == ["a", "b"]
    train_steps = [step for step in range(40) if gradients.save_config.should_save_step(modes.TRAIN, step)]
    eval_steps = [step for step in range(120) if gradients.save_config.should_save_step(modes.EVAL, step)]
    assert (train_steps, eval_steps) == ([0], [0, 3, 5])
    monkeypatch.delenv("SMDEBUG_CONFIG_FILE_PATH")
    with pytest.raises(FileNotFoundError):
        Hook.create_from_json_file()
    file.write_text("{")
    with pytest.raises(ConfigurationError, match="not valid JSON"):
        Hook.create_from_json_file(file)
