"""What machines cost, from one dated table that a user's own may replace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finepoint.errors import ConfigurationError
from finepoint.files import read_json, write_json

# In the folder of each job or study.
BILLS = "bills.json"
_TABLE = Path(__file__).with_name("rates.json")


def rate_table() -> dict[str, Any]:
    """Return the table of rates: `$FINEPOINT_RATES`, a JSON file of the same form, or the built-in one.

    Raises:
        InputError: the user's file cannot be read.
        ConfigurationError: it is of another form.
    """
    path = Path(os.environ.get("FINEPOINT_RATES") or _TABLE)
    table = read_json(path)
    rates = table.get("dollars_per_hour") if isinstance(table, dict) else None
    if not isinstance(rates, dict) or not all(isinstance(rate, int | float) and rate > 0 for rate in rates.values()):
        raise ConfigurationError(f"{path} must have dollars_per_hour, an object of machine types and rates above 0")
    if missing := [key for key in ("region", "date") if not isinstance(table.get(key), str)]:
        raise ConfigurationError(f"{path} must have {' and '.join(missing)}: where, and since when, its rates hold")
    return dict(table)


def price(instance_type: str, hours: float, count: int = 1) -> float | None:
    """Return the price in US dollars of machines for some hours, or None where the table lacks the type.

    >>> price("ml.m5.xlarge", 2.0)
    0.46
    """
    rate = rate_table()["dollars_per_hour"].get(instance_type)
    return None if rate is None else round(float(rate) * hours * count, 4)


@dataclass(frozen=True)
class Spent:
    """What the jobs of a run, a job or a study were billed for.

    Args:
        jobs: that were billed; every try counts.
        seconds: billed, of all machines.
        dollars: by the table of rates; jobs on machines that it lacks are not in it.
        unpriced: how many those are.
    """

    jobs: int = 0
    seconds: int = 0
    dollars: float = 0.0
    unpriced: int = 0

    def words(self) -> str:
        """Return it as a sentence."""
        missing = f"; {self.unpriced} jobs on machines that the table of rates lacks" if self.unpriced else ""
        jobs = "1 job" if self.jobs == 1 else f"{self.jobs} jobs"
        return (
            f"Billed in AWS so far: {jobs}, {self.seconds} s, about {self.dollars:.4f} US dollars{missing}. "
            "Endpoints, S3 and logs come on top"
        )


def spent(folder: Path) -> Spent:
    """Return what everything in a run's, a job's or a study's folder was billed for."""
    bills = [one for path in folder.rglob(BILLS) for one in read_json(path)]
    return Spent(
        len(bills),
        sum(one["seconds"] * one["count"] for one in bills),
        round(sum(one["dollars"] or 0.0 for one in bills), 4),
        sum(one["dollars"] is None for one in bills),
    )


def add_bill(folder: Path, name: str, instance_type: str, count: int, seconds: int) -> None:
    """Write down that a job was billed; the same job twice is once."""
    path = folder / BILLS
    before = [one for one in read_json(path) if one["job"] != name] if path.is_file() else []
    cost = price(instance_type, seconds / 3600, count)
    write_json(path, [*before, {"job": name, "seconds": seconds, "count": count, "dollars": cost}])


def refuse_above(
    what: str,
    instance_type: str,
    hours: float,
    count: int,
    max_price: float | None,
    region: str,
    before: float = 0.0,
) -> str:
    """Return an estimate in words.

    Args:
        what: is estimated.
        instance_type: of the machines.
        hours: that they run at most.
        count: of machines.
        max_price: in US dollars, or None.
        region: where the machines run.
        before: US dollars that other jobs of the same run have cost.

    Raises:
        ConfigurationError: it may cost more than `max_price`, or with one given the rate is unknown.
    """
    table, found = rate_table(), price(instance_type, hours, count)
    missing = ""
    if found is None:
        missing = f"{what}: the table of rates ({table['date']}) has no {instance_type}"
    elif max_price is not None and region != table["region"]:
        missing = f"{what}: the table has rates of {table['region']}, and it runs in {region}"
    if missing and max_price is not None:
        raise ConfigurationError(f"{missing}, so that max_price cannot be kept; give it in FINEPOINT_RATES")
    if found is None:
        return f"{missing}; what it costs is unknown"
    words = (
        f"{what} costs at most {found:.2f} US dollars: {count} × {instance_type} for {hours:.3g} h "
        f"(rates of {table['region']}, {table['date']})"
    )
    if before:
        words += f"; {before:.2f} were spent by the run before"
    if max_price is not None and before + found > max_price:
        raise ConfigurationError(
            f"{words}, above max_price {max_price:.2f}; allow fewer seconds (max_run_seconds), take another machine "
            "type, or raise --max-price"
        )
    return words
