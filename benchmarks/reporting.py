"""What every benchmark prints: a table, the machine and versions, and a line for each goal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finepoint.models.building import versions
from finepoint.runs.summary import machine


@dataclass(frozen=True)
class Goal:
    """A figure that is to reach a target."""

    name: str
    value: float
    target: float

    @property
    def met(self) -> bool:
        """Whether it does."""
        return self.value >= self.target

    def line(self) -> str:
        """Return it as a line of text."""
        return f"goal {self.name}: {self.value:.2f} (target >= {self.target:g}) {'met' if self.met else 'missed'}"


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="fewer images and rounds")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    return made


def report(
    title: str, rows: Sequence[dict[str, Any]], goals: Sequence[Goal], *, as_json: bool, notes: str = ""
) -> None:
    """Print the result."""
    if as_json:
        listed = [{**asdict(goal), "met": goal.met} for goal in goals]
        print(
            json.dumps(
                {
                    "title": title,
                    "rows": list(rows),
                    "goals": listed,
                    "machine": machine(),
                    "versions": versions(),
                    "notes": notes,
                },
                indent=2,
            )
        )
        return
    host = machine()
    print(f"{title}\n{host['processor']}, {host['cores']} cores, {host['system']}")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    names = list(dict.fromkeys(name for row in rows for name in row))
    widths = {name: max(len(name), *(len(str(row.get(name, ""))) for row in rows)) for name in names}
    print("\n" + "  ".join(name.ljust(widths[name]) for name in names))
    for row in rows:
        print("  ".join(str(row.get(name, "")).ljust(widths[name]) for name in names))
    if notes:
        print(f"\n{notes}")
    print()
    for goal in goals:
        print(goal.line())
