"""What `predict`, `query` and `loadtest` have in common: images that are named, and a heat map that is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AnswersFile = Annotated[
    Path | None, typer.Option("--out", help="Write a .csv or .parquet file with a row for each image.")
]
HeatMapFile = Annotated[
    Path | None, typer.Option("--explain", help="Write a heat map of what speaks for the answer, a PNG file.")
]


def files_in(given: list[Path]) -> list[Path]:
    """Return the files among some paths, and the images below the folders among them.

    Raises:
        DataError: a path is not there, or a folder has no images.
    """
    from finepoint.data.finding import images_below
    from finepoint.errors import DataError
    from finepoint.files import exists

    found: list[Path] = []
    for path in given:
        if not exists(path):
            raise DataError(f"{path}: there is no such file or folder")
        if not path.is_dir():
            found.append(path)
            continue
        below = images_below(path)
        if not below:
            raise DataError(f"{path} holds no images")
        found += below
    return found


def write_heat_map(target: Path, png: bytes, label: str, share: float) -> None:
    """Write a heat map, and say what it shows and how much of the evidence that is."""
    from finepoint.cli.output import percent, say
    from finepoint.errors import storage_errors
    from finepoint.files import write_bytes

    with storage_errors():
        write_bytes(target, png)
    say(f"{target} shows what speaks for {label}; it is {percent(share)} of the evidence")
