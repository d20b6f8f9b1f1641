"""Which packages this machine's own jobs made, so that their code may run again without asking.

A record is a file named by the package's SHA-256, in a folder that only its owner can enter. A script's job ran with
the user's rights; the package that it left, unchanged, is trusted as far as the script was, and no other one is.
"""

from __future__ import annotations

import os
from pathlib import Path

from finepoint.files import read_json, sha256_of, state_dir, write_json


def remember(sha256: str, maker: str) -> None:
    """Record that `maker`, such as `job train-1`, made the package (`model.tar.gz`) of this SHA-256 here."""
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(folder / f"{sha256}.json", {"maker": maker})


def maker_of(package: Path) -> str | None:
    """Return what made a package on this machine; None where nothing did, or it was changed, or it is a folder."""
    if not package.is_file():
        return None
    record = _folder() / f"{sha256_of(package)}.json"
    if not record.is_file() or any(path.stat().st_uid != os.getuid() for path in (record, record.parent)):
        return None
    return str(read_json(record)["maker"])


def _folder() -> Path:
    return state_dir() / "made"
