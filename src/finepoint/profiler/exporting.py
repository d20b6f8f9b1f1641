"""A recording's tables as files that other programs read: CSV, or Parquet."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal

import numpy as np

from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.files import atomic_path, make_folder, write_bytes
from finepoint.profiler.recording import OUTPUT
from finepoint.profiler.segments import Table, read_table

TABLES = ("system", "processes", "steps", "loading")
Format = Literal["csv", "parquet"]


def export_tables(job: Path, folder: Path, format: Format = "csv") -> list[Path]:
    """Write each table of a job's recording that has rows, and return the files' paths.

    Args:
        job: a job's folder.
        folder: where the files go; made if need be.
        format: `csv` (empty where a row has no value) or `parquet` (needs `pip install finepoint[parquet]`).

    Raises:
        NotFoundError: there is no such folder.
        ConfigurationError: the format is none of these, pyarrow is not installed, or the folder cannot be made.
    """
    if format not in ("csv", "parquet"):
        raise ConfigurationError(f"format is {format!r}; it must be csv or parquet")
    if not job.is_dir():
        raise NotFoundError(f"there is no folder {job}; give a job's")
    source = job / OUTPUT if (job / OUTPUT).is_dir() else job
    written = []
    for name in TABLES:
        table = read_table(source / name)
        if not len(table):
            continue
        make_folder(folder, "--to")
        path = folder / f"{name}.{format}"
        if format == "csv":
            write_bytes(path, _csv(table).encode())
        else:
            _write_parquet(path, table)
        written.append(path)
    return written


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    columns = list(table.columns.values())
    for index in range(len(table)):
        writer.writerow("" if np.isnan(column[index]) else repr(float(column[index])) for column in columns)
    return text.getvalue()


def _write_parquet(path: Path, table: Table) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError(
            "Parquet needs pyarrow; pip install 'finepoint[parquet]', or export csv instead"
        ) from None
    columns = {name: pyarrow.array(values, from_pandas=True) for name, values in table.columns.items()}
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
