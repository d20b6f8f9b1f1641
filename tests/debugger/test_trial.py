"""Reading as smdebug's users do, and what is made of it: tables, plots, TensorBoard's files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from finepoint.debugger import Recording, RecordingWriter, create_trial, modes
from finepoint.debugger.plotting import plot
from finepoint.debugger.tensorboard import export_tensorboard
from finepoint.debugger.trial import NoMoreData, StepUnavailable, TensorUnavailable, TensorUnavailableForStep
from finepoint.errors import ConfigurationError, NotFoundError


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A recording: losses whole in two modes, a weight whole at step 0 and reduced at step 10."""
    writer = RecordingWriter(tmp_path / "job" / "debug-output")
    for number, (mode, step) in enumerate([(modes.TRAIN, 0), (modes.TRAIN, 10), (modes.EVAL, 0)]):
        writer.tensor("CrossEntropyLoss_output_0", step, mode, np.array(2.0 - number, np.float32), 5 * number)
    writer.tensor("Net_w", 0, modes.TRAIN, np.array([[3.0, -4.0]], np.float32), 0)
    writer.values(10, modes.TRAIN, {("Net_w", "l2"): 7.0, ("Net_w", "abs_max"): 6.0}, 5)
    writer.values(10, modes.TRAIN, {("scalar/accuracy", "value"): 0.5}, 5)
    writer.fact("collection", name="losses", tensors=["CrossEntropyLoss_output_0"])
    writer.close()
    return tmp_path / "job"


def test_names_steps_modes_collections(job: Path) -> None:
    trial = create_trial(str(job))
    assert trial.tensor_names() == ["CrossEntropyLoss_output_0", "Net_w", "scalar/accuracy"]
    assert trial.tensor_names(mode=modes.EVAL) == ["CrossEntropyLoss_output_0"]
    assert trial.tensor_names(regex="^Net") == ["Net_w"]
    assert trial.tensor_names(collection="losses") == ["CrossEntropyLoss_output_0"]
    assert trial.tensor_names(step=10, mode=modes.TRAIN) == ["CrossEntropyLoss_output_0", "Net_w", "scalar/accuracy"]
    with pytest.raises(ValueError, match="only one"):
        trial.tensor_names(regex="a", collection="losses")
    assert trial.modes() == [modes.TRAIN, modes.EVAL]
    assert (trial.steps(mode=modes.TRAIN), trial.steps(mode=modes.EVAL), trial.steps()) == ([0, 10], [0], [0, 5, 10])
    assert trial.global_step(modes.EVAL, 0) == 10 and trial.mode_modestep(5) == (modes.TRAIN, 10)
    assert trial.workers() == ["worker_0"] and trial.loaded_all_steps


def test_values_and_reductions(job: Path) -> None:
    trial = create_trial(job)
    loss, weight = trial.tensor("CrossEntropyLoss_output_0"), trial.tensor("Net_w")
    assert loss.steps(mode=modes.TRAIN) == [0, 10] and loss.value(10, mode=modes.TRAIN) == 1.0
    assert loss.value(10) == 0.0  # without a mode steps are global: 10 is the evaluation's
    assert weight.reduction_value(0, "l2", mode=modes.TRAIN) == 5.0  # computed from the whole tensor
    assert weight.reduction_value(10, "l2", mode=modes.TRAIN) == 7.0
    assert weight.reduction_value(10, "max", mode=modes.TRAIN, abs=True) == 6.0
    assert weight.reduction_values(10, modes.TRAIN) == {("l2", False): 7.0, ("max", True): 6.0}
    assert weight.shape(0, modes.TRAIN) == (1, 2)
    assert trial.tensor("scalar/accuracy").value(10, modes.TRAIN) == 0.5
    assert loss.prev_steps(10, 1, modes.TRAIN) == [10]


def test_what_is_not_there_is_said_in_smdebugs_words(job: Path) -> None:
    trial = create_trial(job)
    with pytest.raises(TensorUnavailable, match="was not saved"):
        trial.tensor("nothing")
    with pytest.raises(TensorUnavailableForStep, match="reductions abs_max, l2"):
        trial.tensor("Net_w").value(10, modes.TRAIN)
    with pytest.raises(StepUnavailable, match="step 3 of mode TRAIN"):
        trial.tensor("Net_w").value(3, modes.TRAIN)
    with pytest.raises(StepUnavailable):
        trial.wait_for_steps([5], modes.TRAIN)
    with pytest.raises(NoMoreData, match="the job ended at 10"):
        trial.wait_for_steps([20], modes.TRAIN)
    with pytest.raises(NotFoundError):
        create_trial(job / "absent")


def test_a_table_of_everything(job: Path) -> None:
    table = create_trial(job).to_pandas("Net_w")
    assert table[["name", "mode", "reduction", "step", "value"]].values.tolist() == [
        ["Net_w", "TRAIN", "abs_max", 10, 6.0],
        ["Net_w", "TRAIN", "l2", 10, 7.0],
    ]


def test_a_plot_has_training_and_evaluation_on_one_figure(job: Path, tmp_path: Path) -> None:
    figure = create_trial(job).plot("Loss_output")
    figure.savefig(tmp_path / "loss.svg")
    train, evaluation = figure.axes
    assert train.lines[0].get_xydata().tolist() == [[0, 2], [10, 1]]
    assert evaluation.lines[0].get_xydata().tolist() == [[0, 0]]
    with pytest.raises(NotFoundError, match="nothing recorded matches"):
        plot(Recording.open(job), "absent")
    with pytest.raises(ConfigurationError, match="no regular expression"):
        plot(Recording.open(job), "(")


def test_extras_that_are_not_installed_are_named(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib.figure", "pandas", "tensorboard.compat.proto.event_pb2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'finepoint\[plot\]'"):
        create_trial(job).plot("Loss")
    with pytest.raises(ConfigurationError, match="pip install pandas"):
        create_trial(job).to_pandas()
    with pytest.raises(ConfigurationError, match=r"pip install 'finepoint\[tensorboard\]'"):
        export_tensorboard(Recording.open(job), job)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_is_exported(job: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert export_tensorboard(Recording.open(job), tmp_path / "events") == 6
    run = EventAccumulator(str(tmp_path / "events" / "train"))
    run.Reload()
    assert run.Tags()["scalars"] == ["CrossEntropyLoss_output_0", "Net_w/abs_max", "Net_w/l2", "scalar/accuracy"]
    assert [(event.step, event.value) for event in run.Scalars("CrossEntropyLoss_output_0")] == [(0, 2.0), (10, 1.0)]
