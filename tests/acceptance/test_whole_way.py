from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import httpx
import pytest
import torch
import torchvision
from tests.acceptance.conftest import Finepoint, runs_of, value_of

import finepoint as library
from finepoint.errors import TestPartError
from finepoint.runs.summary import without_varying

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def summary(finepoint: Finepoint, colours: Path) -> dict:  # type: ignore[type-arg]
    return value_of(finepoint("run", colours, "--run", "first", "--max-jobs", 6, "--thumbnails", 6, "--json"))


def test_the_summary_has_every_promised_key(summary: dict) -> None:  # type: ignore[type-arg]
    promised = {
        "": "schema_version run status command started_at finished_at seed versions machine data backbones features "
        "tuning training test model report_path seconds_total",
        "data": "classes images skipped leaks findings",
        "features": "images_embedded images_from_cache seconds images_per_second",
        "tuning": "strategy objective direction trials best seconds",
        "training": "epochs best_epoch seconds",
        "test": "images accuracy accuracy_low accuracy_high balanced_accuracy macro_f1 top_5_accuracy log_loss "
        "ece_before ece_after temperature per_class confusion times_read unknown",
        "model": "path sha256 bytes",
        "debugger": "findings overhead_fraction notes",
        "profiler": "interval_ms datapoints cpu_utilisation_p50 cpu_utilisation_p95 gpu_utilisation_p50 "
        "peak_memory_bytes phases parts step_seconds rules findings overhead_fraction",
    }
    for part, keys in promised.items():
        assert set(keys.split()) <= set(summary[part] if part else summary), part
    assert set(summary["tuning"]["trials"][0]) >= {"number", "status", "hyperparameters", "value", "seconds"}
    assert set(summary["tuning"]["best"]) == {"number", "hyperparameters", "value"}
    epoch_keys = {"epoch", "train_loss", "valid_loss", "train_accuracy", "valid_accuracy", "seconds"}
    assert set(summary["training"]["epochs"][0]) >= epoch_keys
    assert set(summary["backbones"][0]) >= {"name", "weights_sha256", "precision", "runtime"}
    assert summary["data"]["classes"] == ["blue & <b>", "green", "red"]
    assert summary["data"]["images"] == {"train": 72, "valid": 24, "test": 24}
    assert summary["features"]["images_embedded"] + summary["features"]["images_from_cache"] == 120
    assert summary["test"]["accuracy"] > 0.9
    assert summary["test"]["times_read"] == 1
    assert summary["status"] == "completed"


def test_the_debugger_finds_nothing_wrong_with_our_own_training(summary: dict) -> None:  # type: ignore[type-arg]
    statuses = {finding["rule"]: finding["status"] for finding in summary["debugger"]["findings"]}
    assert set(statuses.values()) == {"NoIssuesFound", "NotApplicable"}
    assert statuses["NotANumber"] == "NoIssuesFound"
    assert 0 < summary["debugger"]["overhead_fraction"] < 0.1


def test_the_whole_run_is_profiled_and_its_phases_add_up(finepoint: Finepoint, summary: dict) -> None:  # type: ignore[type-arg]
    profile = summary["profiler"]
    assert sum(profile["phases"].values()) == pytest.approx(1, abs=0.02)
    assert {part["name"] for part in profile["parts"]} >= {"startup", "check", "tuning", "training", "evaluation"}
    covered = sum(part["seconds"] for part in profile["parts"])
    assert 0.7 * profile["seconds"] < covered < 1.05 * profile["seconds"]
    assert profile["steps"] > sum(len(trial["epochs"]) for trial in summary["tuning"]["trials"])
    assert {rule["rule"] for rule in profile["rules"]} >= {"StepOutlier", "CPUBottleneck", "DecodeBound"}
    assert profile["overhead_fraction"] < 0.05
    report = (runs_of(finepoint) / "first" / "report.html").read_text()
    assert '<section id="profile">' in report


def test_the_best_trial_is_what_was_trained(summary: dict) -> None:  # type: ignore[type-arg]
    best = summary["tuning"]["best"]
    assert best["value"] == min(trial["value"] for trial in summary["tuning"]["trials"])
    epochs = summary["training"]["epochs"]
    assert epochs[summary["training"]["best_epoch"] - 1]["valid_loss"] == pytest.approx(best["value"], rel=1e-6)


def test_a_second_run_embeds_nothing_and_equals_the_first(
    finepoint: Finepoint,
    colours: Path,
    summary: dict,  # type: ignore[type-arg]
) -> None:
    again = value_of(finepoint("run", colours, "--run", "second", "--max-jobs", 6, "--thumbnails", 6, "--json"))
    assert again["features"]["images_embedded"] == 0
    assert without_varying(again) == without_varying(summary)
    assert again["model"]["sha256"] == summary["model"]["sha256"]


def test_a_finished_run_is_not_repeated_and_another_setting_is_refused(
    finepoint: Finepoint,
    colours: Path,
    summary: dict,  # type: ignore[type-arg]
) -> None:
    assert (
        value_of(finepoint("run", colours, "--run", "first", "--max-jobs", 6, "--thumbnails", 6, "--json")) == summary
    )
    refused = finepoint("run", colours, "--run", "first", "--thumbnails", 6, "--seed", 9, code=2)
    assert "another seed" in refused.stderr


def test_evaluate_predict_and_report(finepoint: Finepoint, colours: Path, summary: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    own = value_of(finepoint("evaluate", "first", "--json"))
    assert own["accuracy"] == summary["test"]["accuracy"]
    assert own["times_read"] == 2
    model = runs_of(finepoint) / "first" / "model.tar.gz"
    elsewhere = value_of(finepoint("evaluate", model, colours, "--json"))
    assert elsewhere["confusion"] == own["confusion"]
    assert elsewhere["log_loss"] == pytest.approx(own["log_loss"], abs=1e-4)
    (tmp_path / "bad.jpg").write_text("no image")
    done = finepoint("predict", "first", colours / "test", tmp_path / "bad.jpg", "--out", tmp_path / "out.csv", code=2)
    assert "bad.jpg" in done.stderr
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "path,label,probability,blue & <b>,green,red,unknown,unknown_score"
    assert len(lines) == 25
    assert Path(finepoint("report", "first").stdout.strip()).is_file()
    page = (runs_of(finepoint) / "first" / "report.html").read_text()
    assert "blue &amp; &lt;b&gt;" in page
    assert "blue & <b>" not in page
    assert value_of(finepoint("runs", "--json"))[0]["run"] in ("first", "second")


def test_reloading_gives_the_evaluated_probabilities(finepoint: Finepoint, colours: Path, summary: dict) -> None:  # type: ignore[type-arg]
    run = runs_of(finepoint) / "first"
    description = json.loads((run / "training" / "model" / "finepoint.json").read_text())
    assert summary["parity"]["max_logit_difference"] <= description["graph"]["logit_tolerance"]
    classifier = library.load(run)
    rows = [json.loads(line) for line in (run / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        answer = classifier(colours / row["path"])
        assert [answer.probabilities[name] for name in classifier.classes] == pytest.approx(
            row["probabilities"], abs=1e-4
        )


def test_deploy_query_undeploy(finepoint: Finepoint, colours: Path, summary: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    endpoint = value_of(finepoint("deploy", "first", "--name", "colours", "--json"))
    try:
        image = next((colours / "test" / "red").glob("*.png"))
        asked = value_of(finepoint("query", "colours", image, "--top", 2, "--json"))
        assert asked[0]["label"] == "red"
        assert len(asked[0]["probabilities"]) == 2
        body = image.read_bytes()
        raw = httpx.post(f"{endpoint['url']}/invocations", content=body, headers={"Content-Type": "image/png"}).json()
        coded = {"image": base64.b64encode(body).decode()}
        assert httpx.post(f"{endpoint['url']}/invocations", json=coded).json() == raw
        assert raw["model_version"] == endpoint["model_version"]
        assert raw["probabilities"] == pytest.approx(
            library.load(runs_of(finepoint) / "first")(image).probabilities, abs=1e-6
        )
        (tmp_path / "bad.png").write_text("no image")
        assert "not an image" in finepoint("query", "colours", tmp_path / "bad.png", code=2).stderr
        assert "exists already" in finepoint("deploy", "first", "--name", "colours", code=2).stderr
        listed = {item["name"]: item["state"] for item in value_of(finepoint("endpoints", "--json"))}
        assert listed["colours"] == "healthy"
    finally:
        finepoint("undeploy", "colours")
    assert value_of(finepoint("endpoints", "--json")) == []
    assert finepoint("query", "colours", image, code=2).stderr


def test_images_of_none_of_the_classes_are_told(summary: dict) -> None:  # type: ignore[type-arg]
    judged = summary["test"]["unknown"]
    assert judged["kept"] > 0.8
    assert {row["kind"] for row in judged["others"]} == {"noise", "patterns", "scenery"}
    assert all(row["auroc"] > 0.9 for row in judged["others"])


def test_what_an_endpoint_is_asked_is_watched_and_learnt_from(
    finepoint: Finepoint,
    colours: Path,
    summary: dict,  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    endpoint = value_of(finepoint("deploy", "first", "--name", "w", "--capture", "100%", "--capture-images", "--json"))
    try:
        finepoint("query", "w", "--dir", colours / "test", "--out", tmp_path / "a.csv")
        rows = (tmp_path / "a.csv").read_text().splitlines()
        assert rows[0].startswith("path,label,probability,blue & <b>,green,red")
        assert len(rows) == 25
        image = next((colours / "test" / "red").glob("*.png"))
        finepoint("query", "w", image, "--explain", tmp_path / "why.png")
        finepoint("predict", "first", image, "--explain", tmp_path / "own.png")
        assert (tmp_path / "why.png").read_bytes() == (tmp_path / "own.png").read_bytes()
        asked = {"content": image.read_bytes(), "headers": {"Content-Type": "image/png"}}
        likest = httpx.post(f"{endpoint['url']}/invocations?similar=true", **asked).json()["similar"]  # type: ignore[arg-type]
        assert len(likest) == 4
        assert likest[0]["label"] == "red"
        assert "Too few images" in finepoint("monitor", "w").stdout
        assert value_of(finepoint("monitor", "w", "--json"))["drift"]["images"] >= 25
        loaded = value_of(finepoint("loadtest", "w", image, "--rate", 10, "--seconds", 1, "--json"))
        assert loaded["requests"] == loaded["accepted"] + loaded["refused"] + sum(loaded["failures"].values())
        assert 'finepoint_drift{measure="feature_psi"}' in httpx.get(f"{endpoint['url']}/metrics").text
    finally:
        finepoint("undeploy", "w")
    captures = Path(os.environ["FINEPOINT_STATE"]) / "captures" / "w"
    sorted_ = value_of(finepoint("data", "add", captures, tmp_path / "review", "--json"))
    assert sum(sorted_["images"].values()) == 24
    shutil.copytree(colours, tmp_path / "photos")
    for split in ("test", "valid"):
        shutil.rmtree(tmp_path / "photos" / split)
    added = value_of(finepoint("data", "add", tmp_path / "review", tmp_path / "photos", "--json"))
    assert sum(added["images"].values()) == 24
    assert "no such file" in finepoint("data", "add", tmp_path / "nix", tmp_path / "photos", code=2).stderr


def test_an_endpoint_whose_process_died_shows_as_stale(finepoint: Finepoint, summary: dict) -> None:  # type: ignore[type-arg]
    import psutil

    finepoint("deploy", "first", "--name", "doomed")
    record = value_of(finepoint("endpoints", "--json"))[0]
    supervisor = psutil.Process(record["pid"])
    supervisor.suspend()  # so that it brings nothing back, nor is brought back
    killed = [*supervisor.children(recursive=True), supervisor]
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=10)
    assert value_of(finepoint("endpoints", "--json"))[0]["state"] == "stale"
    finepoint("deploy", "first", "--name", "doomed")  # a stale entry is replaced
    assert value_of(finepoint("undeploy", "--all", "--json"))["stopped"] == ["doomed"]


def test_tune_then_train_then_evaluate(finepoint: Finepoint, colours: Path) -> None:
    tuning = value_of(
        finepoint("tune", colours, "--run", "steps", "--max-jobs", 3, "--range", "lr=0.001:0.01:log", "--json")
    )
    assert len(tuning["trials"]) == 3
    assert all(0.001 <= trial["hyperparameters"]["lr"] <= 0.01 for trial in tuning["trials"])
    from finepoint.data.dataset import DataSet
    from finepoint.runs.folder import RunFolder
    from finepoint.runs.steps import read_test_part

    folder = RunFolder(runs_of(finepoint) / "steps")
    with pytest.raises(TestPartError, match="stays closed"):
        read_test_part(folder, DataSet.load(folder.data), "peeking")
    trained = value_of(finepoint("train", colours, "--run", "steps", "--json"))
    assert trained["training"]["hyperparameters"]["lr"] == tuning["best"]["hyperparameters"]["lr"]
    assert "test" not in trained
    assert value_of(finepoint("evaluate", "steps", "--json"))["times_read"] == 1


def test_train_with_fixed_hyperparameters(finepoint: Finepoint, colours: Path) -> None:
    fixed = ("--lr", 0.02, "--head", "mlp", "--dropout", 0.2, "--class-weights", "balanced", "--epochs", 3)
    summary = value_of(finepoint("train", colours, "--run", "fixed", *fixed, "--json"))
    assert (
        summary["training"]["hyperparameters"] | {"lr": 0.02, "head": "mlp"} == summary["training"]["hyperparameters"]
    )
    assert "tuning" not in summary


def test_a_backbone_from_a_state_dict_and_two_side_by_side(finepoint: Finepoint, colours: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "resnet50.pth"
    torch.save(torchvision.models.resnet50().state_dict(), weights)
    summary = value_of(
        finepoint(
            "run", colours, "--run", "resnet", "--backbone", "resnet50", "--weights", weights, "--max-jobs", 3, "--json"
        )
    )
    assert summary["backbones"][0]["features"] == 2048
    assert summary["backbones"][0]["weights_source"] == "resnet50.pth"
    assert not summary["backbones"][0]["random"]
    names = "efficientnet_lite0,efficientnet_lite1"
    both = value_of(finepoint("run", colours, "--run", "both", "--backbone", names, "--max-jobs", 3, "--json"))
    assert [backbone["name"] for backbone in both["backbones"]] == names.split(",")
    image = next((colours / "test" / "green").glob("*.png"))
    assert value_of(finepoint("predict", "both", image, "--json"))["predictions"][0]["label"] == "green"


def test_random_weights_are_said_everywhere(finepoint: Finepoint, colours: Path) -> None:
    done = finepoint("run", colours, "--run", "random", "--weights", "random", "--max-jobs", 2)
    assert "random" in done.stdout
    page = (runs_of(finepoint) / "random" / "report.html").read_text()
    assert 'class="alarm"' in page
    image = next((colours / "test" / "green").glob("*.png"))
    assert "weights are random" in finepoint("predict", "random", image).stderr


def test_the_same_from_python(colours: Path, tmp_path: Path) -> None:
    run = library.run(
        colours, name="python", directory=tmp_path, max_jobs=2, space={"lr": library.ContinuousParameter(0.001, 0.1)}
    )
    assert run.summary["test"]["accuracy"] > 0.8
    endpoint = library.deploy(run, name="python")
    try:
        image = next((colours / "test" / "red").glob("*.png"))
        assert endpoint.predict(image).label == "red"
        assert [answer.label for answer in endpoint.predict([image, image])] == ["red", "red"]
    finally:
        endpoint.delete()


def test_the_demo(finepoint: Finepoint, tmp_path: Path) -> None:
    answer = value_of(finepoint("demo", "--dir", tmp_path / "demo", "--max-jobs", 4, "--json"))
    assert sum(answer["summary"]["data"]["images"].values()) == 1797
    assert answer["summary"]["test"]["accuracy"] > 0.9
    assert len(answer["answers"]) == 3
