"""A job's supervisor on its own: `python -m finepoint.engines FOLDER` runs the job of the folder's record."""

from __future__ import annotations

import sys
from pathlib import Path

from finepoint.engines.jobs import stopping_on_request
from finepoint.engines.local import Watcher, execute
from finepoint.engines.records import JobFolder
from finepoint.errors import FinepointError


def main() -> int:
    """Run the job and return 0 where it completed."""
    folder = Path(sys.argv[1])
    try:
        spec = JobFolder(folder).spec()
        with stopping_on_request(Watcher(say=_say)) as watcher:
            result = execute(folder, spec, watcher)
    except FinepointError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 0 if result.status == "Completed" else 1


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
