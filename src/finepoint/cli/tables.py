"""Answers as a table: CSV, or Parquet by the file's name."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finepoint.models.classifier import Prediction


def write_answers(path: Path, classes: Sequence[str], answers: Sequence[tuple[Path, Prediction]]) -> None:
    """Write a row for each answer: path, label, probability, every class, and whether it is unknown where that is told.

    Args:
        path: ends in `.parquet`, or it becomes CSV.
        classes: the columns after the answer.
        answers: files and their predictions.

    Raises:
        ConfigurationError: Parquet is asked for and pyarrow is not installed.
    """
    from finepoint.files import write_bytes

    if path.suffix == ".parquet":
        _write_parquet(path, classes, answers)
    else:
        write_bytes(path, csv_table(classes, answers))


def csv_table(classes: Sequence[str], answers: Sequence[tuple[Path, Prediction]]) -> bytes:
    """Return a CSV file with a row for each answer; a path that a spreadsheet would compute begins with `./`."""
    text = io.StringIO()
    writer = csv.writer(text)
    tells = any(answer.unknown is not None for _, answer in answers)
    writer.writerow(["path", "label", "probability", *classes, *(["unknown", "unknown_score"] if tells else [])])
    for file, answer in answers:
        path = f"./{file}" if str(file).startswith(("=", "+", "-", "@", "\t")) else str(file)
        each = (f"{answer.probabilities[name]:.6f}" for name in classes)
        unknown = [str(answer.unknown).lower(), f"{answer.unknown_score:.6g}"] if tells else []
        writer.writerow([path, answer.label, f"{answer.probability:.6f}", *each, *unknown])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _write_parquet(path: Path, classes: Sequence[str], answers: Sequence[tuple[Path, Prediction]]) -> None:
    from finepoint.errors import ConfigurationError
    from finepoint.files import atomic_path

    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError(
            "Parquet needs pyarrow; pip install 'finepoint[parquet]', or name a .csv file"
        ) from None
    found = [answer for _, answer in answers]
    names = [
        "path",
        "label",
        "probability",
        "unknown",
        "unknown_score",
        *(f"probability of {name}" for name in classes),
    ]
    columns = [
        pyarrow.array([str(file).encode(errors="replace").decode() for file, _ in answers], pyarrow.string()),
        pyarrow.array([answer.label for answer in found], pyarrow.string()),
        pyarrow.array([answer.probability for answer in found], pyarrow.float64()),
        pyarrow.array([answer.unknown for answer in found], pyarrow.bool_()),
        pyarrow.array([answer.unknown_score for answer in found], pyarrow.float64()),
        *(pyarrow.array([answer.probabilities[name] for answer in found], pyarrow.float64()) for name in classes),
    ]
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names), temporary)
