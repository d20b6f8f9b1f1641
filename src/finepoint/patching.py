"""Functions and methods replaced by what wraps them, and put back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

Remove = Callable[[], None]


class _Replaced(NamedTuple):
    owner: Any
    name: str
    original: Any
    replacement: Any
    removed: list[bool]


_covered: dict[tuple[Any, str, object], _Replaced] = {}


def replace_all(
    places: list[tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]], *, by: object = None
) -> Remove:
    """Replace attributes by what wraps them; return what puts the former ones back.

    Where another has wrapped ours since, ours stays below it and does nothing any more.

    Args:
        places: owner, name, and what wraps the attribute.
        by: who replaces the same places time and again: what stayed below another's is then used again, and not
            wrapped once more each time.
    """
    done = []
    for owner, name, around in places:
        covered = _covered.pop((owner, name, by), None)
        if covered is not None and vars(owner)[name] is not covered.original:
            covered.removed[0] = False
            done.append(covered)
            continue
        original = vars(owner)[name]
        replacement = _gated(original, around(original), removed := [False])
        setattr(owner, name, replacement)
        done.append(_Replaced(owner, name, original, replacement, removed))

    def remove() -> None:
        for replaced in done:
            replaced.removed[0] = True
            if vars(replaced.owner)[replaced.name] is replaced.replacement:
                setattr(replaced.owner, replaced.name, replaced.original)
            elif by is not None:
                _covered[(replaced.owner, replaced.name, by)] = replaced

    return remove


def _gated(original: Callable[..., Any], wrapped: Callable[..., Any], removed: list[bool]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (original if removed[0] else wrapped)(*args, **kwargs)

    return call
