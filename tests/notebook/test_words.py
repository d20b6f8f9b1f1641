from __future__ import annotations

import io
import json
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finepoint import notebook as sagemaker
from finepoint.engines.profiling import profiler_configuration
from finepoint.engines.records import JobFolder
from finepoint.engines.spec import JobSpec
from finepoint.errors import ConfigurationError, JobError
from finepoint.notebook import debugging, display
from finepoint.notebook.jobs import TrainingJob

SCRIPT = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--fails", type=int, default=0)
parser.add_argument("--batch_size", default="")
args = parser.parse_args()
print("valid loss: 0.5", os.listdir(os.environ["SM_CHANNEL_TRAINING"]))
open(os.environ["SM_MODEL_DIR"] + "/weights.bin", "w").close()
raise SystemExit(args.fails)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINEPOINT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FINEPOINT_STATE", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one").touch()
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        {"dependencies": ["lib"]},
        {"distribution": {"mpi": {"enabled": True}}},
        {"input_mode": "Pipe"},
        {"checkpoint_local_path": "/elsewhere"},
        {"git_config": {"repo": "x"}},
        {"no_argument_of_the_sdk": 1},
    ],
)
def test_what_would_change_the_result_is_refused_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(arguments)).split("_")[0]):
        sagemaker.PyTorch("train.py", **arguments)


def test_what_means_something_only_in_the_cloud_is_recorded(script: Path) -> None:
    estimator = sagemaker.PyTorch(str(script), role="r", instance_type="ml.p3.2xlarge", subnets=["a"])
    assert estimator.spec("job", {}).tags == {"role": "r", "instance_type": "ml.p3.2xlarge", "subnets": "['a']"}


def test_hyperparameters_come_back_json_encoded_as_in_the_sdk() -> None:
    estimator = sagemaker.PyTorch("train.py", hyperparameters={"batch_size": "128", "lr": 0.1})
    estimator.set_hyperparameters(epochs=2)
    assert estimator.hyperparameters() == {"batch_size": '"128"', "lr": "0.1", "epochs": "2"}


@pytest.mark.slow
def test_fit_runs_the_script_and_leaves_a_model(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = [{"Name": "loss", "Regex": "valid loss: ([0-9.]+)"}]
    estimator = sagemaker.PyTorch(str(script), metric_definitions=metrics)
    address = sagemaker.Session().upload_data(str(script.parent / "data"), key_prefix="some/data")
    assert address == "s3://finepoint-local/some/data"
    estimator.fit(address)
    assert "valid loss: 0.5 ['one']" in capsys.readouterr().out
    assert estimator.latest_training_job is not None
    described = estimator.latest_training_job.describe()
    assert described["TrainingJobStatus"] == "Completed"
    assert described["FinalMetricDataList"] == [{"MetricName": "loss", "Value": 0.5}]
    with tarfile.open(estimator.model_data) as archive:
        assert archive.getnames() == ["weights.bin"]
    again = sagemaker.PyTorch.attach(estimator.latest_training_job.job_name)
    assert again.model_data == estimator.model_data
    estimator.set_hyperparameters(fails=3)
    with pytest.raises(JobError, match=r"failed \(exit code 3\)"):
        estimator.fit(address, logs=False)


def test_a_model_is_repacked_with_its_script(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("w")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "weights.bin", "weights.bin")
    (tmp_path / "serve.py").write_text("def model_fn(folder): ...")
    model = sagemaker.PyTorchModel(str(tmp_path / "model.tar.gz"), "role", str(tmp_path / "serve.py"))
    with tarfile.open(model.repack(tmp_path / "packed.tar.gz")) as archive:
        assert sorted(archive.getnames()) == ["code/inference.py", "weights.bin"]


def test_rules_have_the_sdks_names() -> None:
    rule = sagemaker.Rule.sagemaker(
        sagemaker.rule_configs.vanishing_gradient(),
        rule_parameters={"threshold": "1e-5"},
        collections_to_save=[sagemaker.CollectionConfig("gradients", {"save_interval": 10})],
    )
    hook = sagemaker.DebuggerHookConfig(s3_output_path="s3://x/y", hook_parameters={"train.save_interval": 5})
    made = debugging.debugger_of([rule], hook)
    assert made is not None
    assert made["rules"] == {"VanishingGradient": {"threshold": "1e-5"}}
    assert made["hook"] == {
        "HookParameters": {"train.save_interval": "5"},
        "CollectionConfigurations": [{"CollectionName": "gradients", "CollectionParameters": {"save_interval": "10"}}],
    }
    with pytest.raises(ConfigurationError, match="there is no rule"):
        sagemaker.rule_configs.no_such_rule()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda: sagemaker.rule_configs.ProfilerReport(CPUBottleneck_threshold=90), "CPUBottleneck_threshold is not"),
        (lambda: sagemaker.rule_configs.Email("me@here"), "no rule or action 'Email' here"),
        (lambda: sagemaker.ProfilerRule.sagemaker(sagemaker.rule_configs.overfit()), "use Rule.sagemaker"),
    ],
)
def test_a_profilers_rule_that_would_be_judged_otherwise_is_refused(written: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        written()


def test_cells_that_write_the_sdks_modules_with_dots_find_them() -> None:
    assert sagemaker.serializers.IdentitySerializer is sagemaker.IdentitySerializer
    assert sagemaker.deserializers.JSONDeserializer is sagemaker.JSONDeserializer
    assert sagemaker.debugger.ProfilerRule is sagemaker.ProfilerRule
    assert sagemaker.inputs.TrainingInput is sagemaker.TrainingInput
    assert sagemaker.predictor.Predictor is sagemaker.Predictor
    assert sagemaker.pytorch.PyTorchModel is sagemaker.PyTorchModel
    assert sagemaker.session.Session is sagemaker.Session
    assert sagemaker.tuner.ContinuousParameter is sagemaker.ContinuousParameter


def test_a_rule_of_ones_own_and_the_action_to_stop_are_taken(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("")
    own = sagemaker.Rule.custom(
        "Mine",
        "image",
        "ml.t3.medium",
        5,
        source=str(tmp_path / "own.py"),
        rule_to_invoke="Mine",
        rule_parameters={"a": 1},
    )
    stopping = sagemaker.Rule.sagemaker(
        sagemaker.rule_configs.overfit(),
        actions=sagemaker.rule_configs.ActionList(sagemaker.rule_configs.StopTraining()),
    )
    made = debugging.debugger_of([own, stopping], None)
    assert made is not None
    assert (made["attach"], made["stop_on"]) == (True, ["Overfit"])
    source = str(tmp_path / "own.py")
    assert made["custom"] == [{"name": "Mine", "source": source, "rule_to_invoke": "Mine", "parameters": {"a": "1"}}]
    with pytest.raises(ConfigurationError, match="source is missing"):
        sagemaker.Rule.custom("Mine")
    with pytest.raises(ConfigurationError, match="actions other than"):
        sagemaker.Rule.sagemaker(sagemaker.rule_configs.overfit(), actions="mail me")


class Handle:
    """What Jupyter gives of something that is displayed."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, what: display.Displayable) -> None:
        self.shown.append(what._repr_html_())


@pytest.mark.parametrize(
    ("judged", "status"),
    [
        ({"CPUBottleneck": "IssuesFound"}, "IssuesFound"),
        ({"CPUBottleneck": "NoIssuesFound"}, "NoIssuesFound"),
        ({}, "Error"),
    ],
)
def test_the_cell_that_looks_up_the_profilers_report_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: dict[str, str], status: str
) -> None:
    monkeypatch.setenv("FINEPOINT_RUNS", str(tmp_path))
    (tmp_path / "train.py").touch()
    spec = JobSpec("j", entry_point="train.py", source_dir=str(tmp_path), profiler=profiler_configuration())
    (tmp_path / "j").mkdir()
    JobFolder(tmp_path / "j").begin(spec)
    JobFolder(tmp_path / "j").finish("Completed", profiler_rules=judged)
    estimator = sagemaker.PyTorch.attach("j")
    assert estimator.latest_training_job is not None
    (row,) = estimator.latest_training_job.rule_job_summary()
    assert (row["RuleConfigurationName"], row["RuleEvaluationStatus"]) == ("ProfilerReport", status)
    assert estimator.output_path + estimator.latest_training_job.job_name == str(tmp_path / "j")


def test_a_notebook_sees_a_job_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, ipython = Handle(), types.ModuleType("IPython")
    shell = types.SimpleNamespace(kernel=object(), display_pub=object())
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    shown = types.ModuleType("IPython.display")
    shown.display = lambda what, display_id: handle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    (tmp_path / "train.py").touch()
    folder = JobFolder(tmp_path / "job")
    folder.path.mkdir()
    folder.begin(JobSpec("job", entry_point="train.py", source_dir=str(tmp_path / "train.py")))
    readings = [{"name": "<loss>", "value": value, "at": 0.0} for value in (0.5, 0.25)]
    folder.metrics.write_text("".join(json.dumps(reading) + "\n" for reading in readings))
    job = TrainingJob(folder)
    display.Shown(job).refresh(last=True)
    (text,) = handle.shown
    assert "InProgress" in text
    assert "<svg" in text
    assert "<loss>" not in text


def test_what_is_sent_reads_back() -> None:
    array = np.arange(6.0).reshape(2, 3)
    pairs = [
        (sagemaker.NumpySerializer(), sagemaker.NumpyDeserializer(), array),
        (sagemaker.JSONSerializer(), sagemaker.JSONDeserializer(), {"a": [1, 2]}),
        (sagemaker.JSONLinesSerializer(), sagemaker.JSONLinesDeserializer(), [1, {"a": 2}]),
        (sagemaker.CSVSerializer(), sagemaker.CSVDeserializer(), [["1", "a,b"], ["2", 'c"']]),
        (sagemaker.IdentitySerializer("image/jpeg"), sagemaker.BytesDeserializer(), b"\xff\xd8"),
    ]
    for serializer, deserializer, data in pairs:
        read = deserializer.deserialize(serializer.serialize(data), serializer.CONTENT_TYPE)  # type: ignore[attr-defined]
        assert np.array_equal(read, data) if isinstance(data, np.ndarray) else read == data
    assert sagemaker.CSVSerializer().serialize([1, 2]) == b"1,2"
    assert sagemaker.StringDeserializer().deserialize("ü".encode(), "") == "ü"


def test_a_serializer_says_the_content_type_that_it_is_given_and_a_deserializer_what_it_accepts(tmp_path: Path) -> None:
    for serializer in (sagemaker.JSONSerializer, sagemaker.JSONLinesSerializer, sagemaker.CSVSerializer):
        assert serializer(content_type="text/own").CONTENT_TYPE == "text/own"
    assert sagemaker.NumpySerializer(content_type="text/own").CONTENT_TYPE == "text/own"
    for deserializer in (sagemaker.JSONDeserializer, sagemaker.BytesDeserializer, sagemaker.CSVDeserializer):
        assert deserializer(accept="text/own").ACCEPT == ("text/own",)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8")
    image = sagemaker.DataSerializer("image/jpeg")
    assert image.serialize(str(tmp_path / "a.jpg")) == image.serialize(b"\xff\xd8") == b"\xff\xd8"
    narrow = sagemaker.NumpyDeserializer("float32").deserialize(b"[1, 2]", "application/json")
    assert narrow.dtype == np.float32
    with pytest.raises(ConfigurationError, match="allow_pickle"):
        sagemaker.NumpyDeserializer(allow_pickle=True)


def test_an_array_that_needs_unpickling_is_refused() -> None:
    content = io.BytesIO()
    np.save(content, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        sagemaker.NumpyDeserializer().deserialize(content.getvalue(), "application/x-npy")
