"""The public functions that make and use runs: `run`, `tune`, `train`, `evaluate`, `check`, `predict_files`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
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
from finepoint.files import exists, read_json
from finepoint.models.classifier import Classifier, Prediction, load_classifier
from finepoint.models.package import handler_file
from finepoint.models.runtimes import cores
from finepoint.runs.folder import RECORD, RunFolder, create_or_open, find_run, now, runs_dir
from finepoint.runs.listener import Listener
from finepoint.runs.options import RunOptions
from finepoint.runs.profiling import RunProfile
from finepoint.runs.resuming import resume
from finepoint.runs.steps import KINDS, Context, RunJob, run_steps

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
    model: Run | str | Path,
    path: str | Path | None = None,
    *,
    directory: Path | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Return the metrics of a model, as the `test` object of `summary.json`.

    Args:
        model: a run, its name, or a model package.
        path: images to judge it on, laid out as for training (all of them are used, or only `test/` where the user
            made splits); without it a run's own test part, which is then read once more, and counted.
        directory: that holds runs.
        listener: is told how it goes.

    Raises:
        InputError: there is no such run, model or folder, or the classes differ.
    """
    listener = listener or Listener()
    model = model.folder.path if isinstance(model, Run) else model
    if path is None:
        if exists(Path(model)) and not exists(Path(model) / RECORD):
            raise DataError(f"{model} is no run, and so has no test part of its own; give the images to judge it on")
        return _evaluate_run(find_run(model, directory), listener)
    classifier = load_model(model, directory, throughput=True)
    found = find_images(Path(path))
    images = [image for image in found.images if image.split == "test"] or list(found.images)
    strange = sorted({image.label for image in images} - set(classifier.classes))
    if strange:
        raise DataError(f"{path} has classes that the model does not know: {', '.join(map(repr, strange[:5]))}")
    files = [found.root / image.path for image in images]
    logits = np.zeros((len(files), len(classifier.classes)), np.float32)
    failures: dict[int, str] = {}
    for indices, outputs in _computed(classifier, files, ["logits"], listener, failures):
        logits[indices] = outputs["logits"]
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
    failures: dict[int, str] = {}
    answers: dict[int, Prediction] = {}
    for indices, outputs in _computed(classifier, files, classifier.needed, listener or Listener(), failures):
        paths = [str(files[index]) for index in indices]
        answers |= dict(zip(indices, classifier.predictions(outputs, None, paths), strict=True))
    for index, file in enumerate(files):
        yield file, failures[index] if index in failures else answers[index]


def load_model(model: Run | str | Path, directory: Path | None = None, *, throughput: bool = False) -> Classifier:
    """Return the classifier of a run (by name or path) or of a model package.

    Raises:
        InputError: there is no such run or package, or the run has no model yet.
    """
    return load_classifier(model_path(model, directory), throughput=throughput)


def model_path(model: Run | str | Path, directory: Path | None = None) -> Path:
    """Return the package that a run's or a job's name, its folder, or a package's path means.

    Raises:
        NotFoundError: there is none.
    """
    path = model = model.folder.path if isinstance(model, Run) else Path(model)
    if path.is_file() or (path / "finepoint.json").is_file():
        return path
    for job in (path, runs_dir(directory) / str(model)):
        if (job / JOB).is_file():
            packed = JobFolder(job).model
            if not packed.is_file():
                raise NotFoundError(f"job {job.name} left no model; its script puts one into SM_MODEL_DIR")
            return packed
    if (path / handler_file()).is_file():
        return path
    folder = find_run(model, directory)
    if not folder.model.is_file():
        raise NotFoundError(f"run {folder.name} has no model yet; `finepoint train PATH --run {folder.name}` makes one")
    return folder.model


def _evaluate_run(folder: RunFolder, listener: Listener) -> dict[str, Any]:
    steps = ["evaluate", "package", "report"]
    with _alone(folder):
        record = folder.read()
        for name in steps:
            record["steps"].pop(name, None)
        folder.write(record)
        run_steps(Context(folder, RunOptions.from_json(record["options"]), listener), steps)
    return dict(read_json(folder.summary)["test"])


@contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Keep other processes from working on a run while the block works on it."""
    lock = FileLock(folder.path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigurationError(f"run {folder.name} is being worked on by another process; wait for it") from None
    with lock:
        yield


def _do(kind: str, path: str | Path, name: str | None, directory: Path | None, settings: dict[str, Any]) -> Run:
    listener: Listener = settings.pop("listener", None) or Listener()
    command: Sequence[str] = settings.pop("command", None) or sys.argv
    engine: Callable[[str], RunJob] | None = settings.pop("engine", None)
    known = [item.name for item in fields(RunOptions) if item.name != "path"]
    if strange := [key for key in settings if key not in known]:
        raise ConfigurationError(
            f"{', '.join(strange)}: no such setting; there are {', '.join(known)}, "
            "and hyperparameters are given as hyperparameters={'epochs': 4}"
        )
    data = local_data(str(path), lambda what, done, total: listener.progress(what, done, total))
    options = RunOptions(path=str(data.resolve()), **settings)
    folder = create_or_open(runs_dir(directory), name, str(path))
    with _alone(folder):
        if folder.exists():
            options = resume(folder, kind, options, listener)
        else:
            listener.note(f"Run {folder.name}; if it is interrupted, --run {folder.name} goes on with it")
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
        if engine is not None:  # what works elsewhere cannot be sampled from here
            _run_or_note(replace(context, run_job=engine(folder.name)), kind)
            return Run(folder)
        with RunProfile(folder if options.profile else None, listener) as profile:
            _run_or_note(replace(context, profile=profile), kind)
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


def _computed(
    classifier: Classifier,
    files: Sequence[Path],
    names: Sequence[str],
    listener: Listener,
    failures: dict[int, str],
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Yield the graph's outputs for batches of files, with the files' indices; note in `failures` why some failed."""

    def batches() -> Iterable[tuple[list[int], Sequence[np.ndarray]]]:
        for batch in load_batches(
            files, classifier.preprocessings, batch_size=_BATCH, workers=cores(), prefetch=2 * cores()
        ):
            failures.update(batch.failures)
            if batch.indices:
                yield batch.indices, batch.crops

    done = 0
    for indices, outputs in classifier.runtime.stream(batches(), names):
        done += len(indices)
        listener.progress("predict", done + len(failures), len(files))
        yield indices, outputs
