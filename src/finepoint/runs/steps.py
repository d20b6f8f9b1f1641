"""The steps of a run. Each leaves its result in the run's folder, and is not repeated once it has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finepoint.data.checking import check_images
from finepoint.data.dataset import DataSet
from finepoint.data.finding import find_images
from finepoint.data.manifests import MANIFEST_NAME, write_manifest
from finepoint.engines.local import Watcher, run_job
from finepoint.engines.spec import Channel as JobChannel
from finepoint.engines.spec import JobResult, JobSpec
from finepoint.errors import JobError, TestPartError
from finepoint.evaluation.calibration import softmax
from finepoint.evaluation.labels import find_label_issues
from finepoint.evaluation.metrics import evaluate_logits
from finepoint.evaluation.strangers import KINDS as STRANGERS
from finepoint.evaluation.strangers import strangers
from finepoint.evaluation.unknown import judge_unknown
from finepoint.evaluation.writing import EvaluatedImage, write_evaluation
from finepoint.files import read_json, write_json
from finepoint.models.backbones import Backbone, resolve_backbones
from finepoint.models.building import add_test_metrics, read_head
from finepoint.models.choice import Choice
from finepoint.models.classifier import Classifier, load_classifier
from finepoint.models.package import pack, read_description
from finepoint.models.runtimes import cores
from finepoint.profiler.context import elsewhere, part
from finepoint.runs.debugging import judge_training
from finepoint.runs.folder import RunFolder, find_run, now
from finepoint.runs.listener import Listener
from finepoint.runs.options import RunOptions
from finepoint.runs.profiling import RunProfile
from finepoint.runs.summary import write_summary
from finepoint.runs.thumbnails import write_thumbnails
from finepoint.training.channels import Channel, FeatureCount, embed_channel
from finepoint.training.features import ImageFile
from finepoint.tuning.state import StudyState
from finepoint.tuning.study import DATABASE

# Images on which the exported graph is compared with what was evaluated.
_PARITY_IMAGES = 16
# The tolerance of a package is of logits up to this size.
_USUAL_LOGIT = 25.0
# Runs a job in a folder; every engine has one.
RunJob = Callable[[Path, JobSpec, Watcher], JobResult]


@dataclass(frozen=True)
class Context:
    """What every step works with.

    Args:
        folder: the run's.
        options: what was asked for.
        listener: is told how it goes.
        run_job: runs the jobs; by default on this machine.
        profile: of the run.
    """

    folder: RunFolder
    options: RunOptions
    listener: Listener
    run_job: RunJob = run_job
    profile: RunProfile = field(default_factory=RunProfile)


def check(context: Context) -> None:
    """Find, check and split the images; freeze that in `data.json` and in the channels' manifests."""
    found = find_images(Path(context.options.path))
    data = check_images(
        found,
        seed=context.options.seed,
        test_fraction=context.options.test_fraction,
        valid_fraction=context.options.valid_fraction,
        workers=cores(),
        progress=lambda done, total: context.listener.progress("check", done, total),
    )
    for split in ("train", "valid"):
        rows = [
            {"path": str(data.path_of(image)), "label": image.label, "sha256": image.sha256}
            for image in data.part(split)
        ]
        write_manifest(_channel(context.folder, split), rows)
    data.save(context.folder.data)


def tune(context: Context) -> None:
    """Run the study as a job; its record is `tuning/output/data/tuning.json`."""
    _require_files(context, "train", "valid")
    options = context.options
    warm_start = [
        str((find_run(run, context.folder.path.parent).tuning / "checkpoints" / DATABASE).resolve())
        for run in options.warm_start
    ]
    settings = {
        **options.feature_settings(),
        **options.hyperparameters,
        **options.study_settings(),
        "warm_start": warm_start,
        "seed": options.seed,
    }
    with elsewhere():
        job = _job(context, "tuning", "finepoint.engines.study", settings)
        context.run_job(context.folder.tuning, job, _told(context))


def train(context: Context) -> None:
    """Train the best trial again, or with the given hyperparameters where nothing was tuned; leave a package folder."""
    options = context.options
    _require_files(context, "train", "valid")
    record = context.folder.tuning / "output" / "data" / "tuning.json"
    values = {**options.hyperparameters, "seed": options.seed}
    if record.is_file():
        values = read_json(record)["best_hyperparameters"]
    settings = {**options.feature_settings(), **values, "debug": options.debug}
    with elsewhere():
        job = _job(context, "training", "finepoint.training", settings)
        context.run_job(context.folder.training, job, _told(context))
    if options.debug:
        judge_training(context.folder, context.listener)


def evaluate(context: Context) -> None:
    """Read the test part, once, and judge the model on it."""
    folder = context.folder
    data = DataSet.load(folder.data)
    channel = read_test_part(folder, data, "evaluation of the trained model")
    description = read_description(folder.package)
    if context.run_job is not run_job:
        _bring_weights(context)
    backbones = [Backbone.from_json(_plain(value)) for value in description["backbones"]]
    choices = [Choice(value["runtime"], value["precision"], "", {}) for value in description["backbones"]]
    count = FeatureCount()
    features, usable, _ = embed_channel(
        channel,
        backbones,
        choices,
        count,
        lambda done, total: context.listener.progress("features", done, total),
    )
    logits = read_head(folder.package).logits(features)
    classifier = load_classifier(folder.package)
    parity = _check_parity(classifier, channel, usable, logits, description["graph"]["logit_tolerance"])
    number = {name: index for index, name in enumerate(description["classes"])}
    labels = np.array([number[channel.labels[index]] for index in usable], np.int64)
    metrics = evaluate_logits(logits, labels, description["classes"], temperature=description["temperature"])
    metrics["label_issues"] = len(find_label_issues(softmax(logits, metrics["temperature"]), labels))
    metrics["times_read"] = len(folder.readings())
    if classifier.unknown is not None:
        metrics["unknown"] = judge_unknown(classifier.unknown, (features, logits), _strangers(classifier))
    images = data.part("test")
    evaluated = [
        EvaluatedImage(images[index].path, channel.images[index].path, images[index].sha256) for index in usable
    ]
    write_evaluation(folder.evaluation, metrics, logits, labels, description["classes"], evaluated)
    write_json(folder.evaluation / "features.json", {**count.to_json(), "parity": parity})


def package(context: Context) -> None:
    """Write the test metrics into the package and pack it."""
    folder = context.folder
    data = DataSet.load(folder.data)
    path = folder.package / "finepoint.json"
    description = read_json(path)
    description["provenance"] |= {"data_fingerprint": data.fingerprint(), "seed": context.options.seed}
    if context.options.thumbnails:
        description["thumbnails"] = write_thumbnails(
            folder.package, load_classifier(folder.package), data, context.options.thumbnails, context.options.seed
        )
    write_json(path, description)
    metrics = folder.evaluation / "metrics.json"
    if metrics.is_file():
        kept = read_json(metrics)
        add_test_metrics(
            folder.package, {key: kept[key] for key in kept if not key.startswith(("reliability", "times_read"))}
        )
    digest = pack(folder.package, folder.model)
    record = folder.read()
    record["model"] = {"path": folder.model.name, "sha256": digest, "bytes": folder.model.stat().st_size}
    folder.write(record)


def report(context: Context) -> None:
    """Write `summary.json` and `report.html`."""
    from finepoint.report.page import write_report

    context.profile.judge()
    write_summary(context.folder, context.options)
    write_report(context.folder.path)


# The part of a run's profile that a step belongs to; the jobs' processes know their own.
_PARTS = {"check": "check", "tune": "tuning", "train": "training", "evaluate": "evaluation", "package": "packing"}
STEPS: dict[str, tuple[str, Callable[[Context], None]]] = {
    "check": ("Checking the images", check),
    "tune": ("Tuning hyperparameters", tune),
    "train": ("Training the best", train),
    "evaluate": ("Evaluating on the test part", evaluate),
    "package": ("Packing the model", package),
    "report": ("Writing the report", report),
}


KINDS: dict[str, list[str]] = {
    "run": ["check", "tune", "train", "evaluate", "package", "report"],
    "tune": ["check", "tune", "report"],
    "train": ["check", "train", "package", "report"],
}


def outputs(folder: RunFolder) -> dict[str, tuple[Path, ...]]:
    """Return the files without which a step has to be done again."""
    return {
        "check": (folder.data, *(_channel(folder, split) / MANIFEST_NAME for split in ("train", "valid"))),
        "tune": (folder.tuning / "output" / "data" / "tuning.json",),
        "train": (folder.training / "output" / "data" / "training.json", folder.package / "finepoint.json"),
        "evaluate": (folder.evaluation / "metrics.json", folder.evaluation / "features.json"),
        "package": (folder.model,),
        "report": (folder.summary, folder.report),
    }


def run_steps(context: Context, names: list[str]) -> None:
    """Run the steps that are not done yet, in order, noting each in `run.json` as it ends."""
    folder = context.folder
    for name in names:
        record = folder.read()
        if record["steps"].get(name, {}).get("status") == "done":
            continue
        text, work = STEPS[name]
        context.listener.step(name, text)
        begin = time.perf_counter()
        if name == "report":
            _finish(folder)
        with part(_PARTS.get(name, "packing")):
            work(context)
        record = folder.read()
        record["steps"][name] = {"status": "done", "seconds": round(time.perf_counter() - begin, 3)}
        folder.write(record)


def read_test_part(folder: RunFolder, data: DataSet, purpose: str) -> Channel:
    """Return the test images of a run, and count the reading in its ledger.

    Raises:
        TestPartError: the best model is not fixed yet; what is chosen by test images cannot be judged by them.
        DataError: test images are gone or changed.
    """
    if not (folder.package / "finepoint.json").is_file():
        raise TestPartError(
            f"run {folder.name} has no trained model yet; its test part stays closed until the best model is fixed"
        )
    data.require_files("test")
    folder.count_reading(purpose)
    part = data.part("test")
    images = tuple(ImageFile(data.path_of(image), image.sha256) for image in part)
    return Channel(images, tuple(image.label for image in part))


def _require_files(context: Context, *splits: str) -> None:
    data = DataSet.load(context.folder.data)
    for split in splits:
        data.require_files(split)


def _finish(folder: RunFolder) -> None:
    record = folder.read()
    record["status"], record["finished_at"] = "completed", now()
    folder.write(record)


def _job(context: Context, name: str, module: str, settings: dict[str, Any]) -> JobSpec:
    channels = {split: JobChannel(str(_channel(context.folder, split))) for split in ("train", "valid")}
    stem = "".join(letter if letter.isalnum() else "-" for letter in context.folder.name)[:50].strip("-")
    return JobSpec(
        f"{stem}-{name}",
        module,
        hyperparameters=settings,
        channels=channels,
        environment=context.profile.environment(),
    )


def _channel(folder: RunFolder, split: str) -> Path:
    return folder.path / "channels" / split


def _told(context: Context) -> Watcher:
    """Return what passes a job's events on to the listener."""
    listener = context.listener

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "features":
            listener.progress("features", event["done"], event["total"])
        elif event["event"] == "study":
            listener.study(StudyState.from_json(event["state"]))
        elif event["event"] == "epoch":
            listener.epoch(event)

    return Watcher(on_event=on_event)


def _bring_weights(context: Context) -> None:
    """Put the backbones' weights into this machine's cache; the job's machine had its own."""
    options = context.options
    names = [name.strip() for name in options.backbone.split(",") if name.strip()]
    weights = [weight.strip() for weight in options.weights.split(",")] if options.weights else []
    resolve_backbones(names, weights * len(names) if weights == ["random"] else weights, seed=options.seed)


def _check_parity(
    classifier: Classifier, channel: Channel, usable: list[int], logits: np.ndarray, tolerance: float
) -> dict[str, Any]:
    """Compare the packaged graph, loaded as a server loads it, with the evaluated logits on some images.

    Raises:
        JobError: they lie further apart than the package says; what was evaluated is not what would be served.
    """
    sample = usable[:_PARITY_IMAGES]
    crops = [classifier.preprocess(channel.images[index].path.read_bytes()) for index in sample]
    served = classifier.logits([np.stack(column) for column in zip(*crops, strict=True)])
    difference = float(np.abs(served - logits[: len(sample)]).max())
    # What rounding makes of a logit grows with it.
    tolerance *= max(1.0, float(np.abs(logits).max()) / _USUAL_LOGIT)
    if not difference <= tolerance:
        raise JobError(
            f"the exported graph differs from what was evaluated by {difference:.3g} in a logit "
            f"(allowed: {tolerance:.3g}); please report this with {classifier.folder / 'finepoint.json'}"
        )
    return {"images": len(sample), "max_logit_difference": difference, "tolerance": tolerance}


def _strangers(classifier: Classifier) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return features and logits of images that are of none of the classes, by their kind."""
    found = {}
    for kind in STRANGERS:
        images = strangers(kind)
        crops = [np.stack([part.apply(image) for image in images]) for part in classifier.preprocessings]
        outputs = classifier.compute(crops, ["features", "logits"])
        found[kind] = outputs["features"], outputs["logits"]
    return found


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in ("runtime", "precision")}
