"""Events: how a job's process tells whoever reads its log how far it is, one marked JSON line each."""

from __future__ import annotations

import json
import sys
from typing import Any

_MARK = "[finepoint] "


def emit(event: str, **values: Any) -> None:
    """Print an event to standard output, at once.

    Args:
        event: its kind, such as `features` or `epoch`.
        values: JSON values that go with it.
    """
    sys.stdout.write(_MARK + json.dumps({"event": event, **values}, allow_nan=False) + "\n")
    sys.stdout.flush()


def parse(line: str) -> dict[str, Any] | None:
    """Return the event that a log line holds, or None.

    >>> parse('[finepoint] {"event": "epoch", "epoch": 1}')
    {'event': 'epoch', 'epoch': 1}
    >>> parse("Epoch 1 done") is None
    True
    """
    if not line.startswith(_MARK):
        return None
    try:
        value = json.loads(line[len(_MARK) :])
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else None
