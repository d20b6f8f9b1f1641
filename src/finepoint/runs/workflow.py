"""The public functions that make and use runs: `run`, `tune`, `train`, `evaluate`, `check`, `predict_files`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from finepoint.data.checking import check_images
from finepoint.data.dataset import DataSet
from finepoint.data.fetching import local_data
from finepoint.data.finding import find_images
from finepoint.data.loading import load_batches
from finepoint.engines.records import RECORD as JOB
from finepoint.engines.records import JobFolder
from finepoint.errors import ConfigurationError, DataError, NotFoundError
from finepoint.evaluation.calibration import softmax
from finepoint.evaluation.labels import find_label_issues
from finepoint.evaluation.metrics import evaluate_logits
from finepoint.files import read_json
from finepoint.models.classifier import Classifier, Prediction, load_classifier, prediction
from finepoint.models.runtimes import cores
from finepoint.runs.folder import RunFolder, create_or_open, find_run, now, runs_dir
from finepoint.runs.listener import Listener
from finepoint.runs.options import RunOptions
from finepoint.runs.steps import Context, RunJob, run_steps

KINDS: dict[str, list[str]] = {
    "run": ["check", "tune", "train", "evaluate", "package", "report"],
    "tune": ["check", "tune", "report"],
    "train": ["check", "train", "package", "report"],
}
_BATCH = 8


class Run:
    """A run on disk, and what came of it.

    Attributes:
        folder: where everything lies.
        summary: the content of `summary.json`.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r})"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return dict(read_json(self.folder.summary))

    @property
    def model(self) -> Path:
        """Where `model.tar.gz` is."""
        return self.folder.model

    @property
    def report(self) -> Path:
        """Where `report.html` is."""
        return self.folder.report


def run(path: str | Path, *, name: str | None = None, directory: Path | None = None, **settings: Any) -> Run:
    """Check, split, tune, train the best, evaluate, package and report, in one go.

    Args:
        path: a folder of images, a manifest, an archive, or the address of one.
        name: of the run; one that exists is resumed.
        directory: that holds runs.
        settings: fields of `RunOptions`, and `listener`, `command`, and `engine`: given the run's name it returns
            what runs the jobs, by default on this machine.

    Raises:
        InputError: what was given cannot be used.
        JobError: a job failed.
    """
    return _do("run", path, name, directory, settings)


def tune(path: str | Path, *, name: str | None = None, directory: Path | None = None, **settings: Any) -> Run:
    """Check, split and tune; arguments and errors as for `run`."""
    return _do("tune", path, name, directory, settings)


def train(path: str | Path, *, name: str | None = None, directory: Path | None = None, **settings: Any) -> Run:
    """Check, split and train one model: the best of the run's tuning, or with the given hyperparameters.

    Arguments and errors are as for `run`; the test part is left alone until `evaluate`.
    """
    return _do("train", path, name, directory, settings)


def check(path: str | Path, **settings: Any) -> DataSet:
    """Find, check and split the images at a path, leaving nothing behind; settings are those of `check_images`."""
    return check_images(find_images(local_data(str(path))), workers=cores(), **settings)


def evaluate(
    model: str | Path,
    path: str | Path | None = None,
    *,
    directory: Path | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Return the metrics of a model, as the `test` object of `summary.json`.

    Args:
        model: a run, or a model package.
        path: images to judge it on, laid out as for training (all of them are used, or only `test/` where the user
            made splits); without it a run's own test part, which is then read once more, and counted.
        directory: that holds runs.
        listener: is told how it goes.

    Raises:
        InputError: there is no such run, model or folder, or the classes differ.
    """
    listener = listener or Listener()
    if path is None:
        return _evaluate_run(find_run(model, directory), listener)
    classifier = load_model(model, directory, throughput=True)
    found = find_images(Path(path))
    images = [image for image in found.images if image.split == "test"] or list(found.images)
    strange = sorted({image.label for image in images} - set(classifier.classes))
    if strange:
        raise DataError(f"{path} has classes that the model does not know: {', '.join(map(repr, strange[:5]))}")
    files = [found.root / image.path for image in images]
    logits, failures = _logits_of(classifier, files, listener)
    usable = [index for index in range(len(files)) if index not in failures]
    if not usable:
        raise DataError(f"{path}: none of {len(files)} files is a usable image")
    number = {label: index for index, label in enumerate(classifier.classes)}
    labels = np.array([number[images[index].label] for index in usable], np.int64)
    rows = logits[usable]
    metrics = evaluate_logits(rows, labels, classifier.classes, temperature=classifier.temperature)
    metrics["label_issues"] = len(find_label_issues(softmax(rows, classifier.temperature), labels))
    metrics["times_read"] = 1
    metrics["skipped"] = [{"path": images[index].path, "reason": reason} for index, reason in failures.items()]
    return metrics


def predict_files(
    classifier: Classifier, files: Sequence[Path], listener: Listener | None = None
) -> Iterator[tuple[Path, Prediction | str]]:
    """Yield each file with its prediction, or with the reason why there is none, in order.

    Args:
        classifier: loaded with `throughput=True`.
        files: image files.
        listener: is told how it goes.
    """
    logits, failures = _logits_of(classifier, files, listener or Listener())
    probabilities = classifier.probabilities(logits)
    for index, file in enumerate(files):
        if index in failures:
            yield file, failures[index]
        else:
            yield file, prediction(classifier.classes, probabilities[index], None, str(file))


def load_model(model: str | Path, directory: Path | None = None, *, throughput: bool = False) -> Classifier:
    """Return the classifier of a run (by name or path) or of a model package.

    Raises:
        InputError: there is no such run or package, or the run has no model yet.
    """
    return load_classifier(model_path(model, directory), throughput=throughput)


def model_path(model: str | Path, directory: Path | None = None) -> Path:
    """Return the package that a run's or a job's name, its folder, or a package's path means.

    Raises:
        NotFoundError: there is none.
    """
    path = Path(model)
    if path.is_file() or (path / "finepoint.json").is_file():
        return path
    for job in (path, runs_dir(directory) / str(model)):
        if (job / JOB).is_file():
            packed = JobFolder(job).model
            if not packed.is_file():
                raise NotFoundError(f"job {job.name} left no model; its script puts one into SM_MODEL_DIR")
            return packed
    folder = find_run(model, directory)
    if not folder.model.is_file():
        raise NotFoundError(f"run {folder.name} has no model yet; `finepoint train PATH --run {folder.name}` makes one")
    return folder.model


def _evaluate_run(folder: RunFolder, listener: Listener) -> dict[str, Any]:
    record = folder.read()
    options = RunOptions.from_json(record["options"])
    for name in ("evaluate", "package", "report"):
        record["steps"].pop(name, None)
    folder.write(record)
    run_steps(Context(folder, options, listener), ["evaluate", "package", "report"])
    return dict(read_json(folder.summary)["test"])


def _do(kind: str, path: str | Path, name: str | None, directory: Path | None, settings: dict[str, Any]) -> Run:
    listener: Listener = settings.pop("listener", None) or Listener()
    command: Sequence[str] = settings.pop("command", None) or sys.argv
    engine: Callable[[str], RunJob] | None = settings.pop("engine", None)
    data = local_data(str(path), lambda what, done, total: listener.progress(what, done, total))
    options = RunOptions(path=str(data.resolve()), **settings)
    folder, exists = create_or_open(runs_dir(directory), name, str(path))
    lock = FileLock(folder.path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigurationError(f"run {folder.name} is being worked on by another process; wait for it") from None
    with lock:
        if exists:
            options = _resume(folder, kind, options, listener)
        else:
            folder.write(
                {
                    "schema_version": 1,
                    "name": folder.name,
                    "kind": kind,
                    "status": "running",
                    "command": shlex.join(["finepoint", *command[1:]]),
                    "started_at": now(),
                    "finished_at": None,
                    "options": options.to_json(),
                    "steps": {},
                }
            )
        context = Context(folder, options, listener)
        _run_or_note(context if engine is None else replace(context, run_job=engine(folder.name)), kind)
    return Run(folder)


def _run_or_note(context: Context, kind: str) -> None:
    """Run the steps of a kind; where one fails, note that in `run.json` before passing the error on."""
    try:
        run_steps(context, KINDS[kind])
    except BaseException as error:
        record = context.folder.read()
        record["status"] = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        record["failure"] = str(error)
        context.folder.write(record)
        raise


def _resume(folder: RunFolder, kind: str, options: RunOptions, listener: Listener) -> RunOptions:
    """Go on with a run: same settings, except that it may tune longer, or train what was only tuned."""
    record = folder.read()
    before = RunOptions.from_json(record["options"])
    differing = before.differences(options)
    if kind != record["kind"]:
        # `train --run NAME` after `tune` takes over what was tuned; settings that it did not name are the run's.
        default = RunOptions(path=options.path)
        differing = [key for key in differing if getattr(options, key) != getattr(default, key)]
        options = replace(before, max_jobs=options.max_jobs if "max_jobs" in differing else before.max_jobs)
    longer = differing == ["max_jobs"] and options.max_jobs > before.max_jobs
    if differing and not longer:
        raise ConfigurationError(
            f"run {folder.name} was made with another {', '.join(differing)}; "
            "repeat its command as it was, or give another --run to begin anew"
        )
    done = [name for name, step in record["steps"].items() if step["status"] == "done"]
    if longer:
        for name in ("tune", "train", "evaluate", "package", "report"):
            record["steps"].pop(name, None)
    if any(name not in done for name in KINDS[kind]) or longer:
        for name in ("package", "report"):
            record["steps"].pop(name, None)
    listener.note(f"Going on with run {folder.name}; done already: {', '.join(done) or 'nothing'}")
    record |= {"options": options.to_json(), "kind": _wider(record["kind"], kind), "status": "running"}
    record.pop("failure", None)
    folder.write(record)
    return options


def _wider(before: str, now_asked: str) -> str:
    return "run" if "run" in (before, now_asked) else now_asked


def _logits_of(classifier: Classifier, files: Sequence[Path], listener: Listener) -> tuple[np.ndarray, dict[int, str]]:
    """Return logits [n, classes] of files (zeros for failed ones) and the reasons of the failures."""
    logits = np.zeros((len(files), len(classifier.classes)), np.float32)
    failures: dict[int, str] = {}

    def batches() -> Iterable[tuple[list[int], Sequence[np.ndarray]]]:
        for batch in load_batches(
            files, classifier.preprocessings, batch_size=_BATCH, workers=cores(), prefetch=2 * cores()
        ):
            failures.update(batch.failures)
            if batch.indices:
                yield batch.indices, batch.crops

    done = 0
    for indices, outputs in classifier.runtime.stream(batches(), ["logits"]):
        logits[indices] = outputs["logits"]
        done += len(indices)
        listener.progress("predict", done + len(failures), len(files))
    return logits, failures
