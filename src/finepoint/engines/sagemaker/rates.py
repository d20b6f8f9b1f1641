"""What machines cost, from one dated table that a user's own may replace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from finepoint.errors import ConfigurationError
from finepoint.files import read_json

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
    return dict(table)


def price(instance_type: str, hours: float, count: int = 1) -> float | None:
    """Return the price in US dollars of machines for some hours, or None where the table lacks the type.

    >>> price("ml.m5.xlarge", 2.0)
    0.46
    """
    rate = rate_table()["dollars_per_hour"].get(instance_type)
    return None if rate is None else round(float(rate) * hours * count, 4)


def refuse_above(what: str, instance_type: str, hours: float, count: int, max_price: float | None) -> str:
    """Return an estimate in words.

    Args:
        what: is estimated.
        instance_type: of the machines.
        hours: that they run at most.
        count: of machines.
        max_price: in US dollars, or None.

    Raises:
        ConfigurationError: it may cost more than `max_price`, or with one given the rate is unknown.
    """
    table, found = rate_table(), price(instance_type, hours, count)
    if found is None:
        words = f"{what}: the table of rates ({table['date']}) has no {instance_type}"
        if max_price is not None:
            raise ConfigurationError(f"{words}, so that max_price cannot be kept; give it in FINEPOINT_RATES")
        return f"{words}; what it costs is unknown"
    words = (
        f"{what} costs at most {found:.2f} US dollars: {count} × {instance_type} for {hours:.3g} h "
        f"(rates of {table['region']}, {table['date']})"
    )
    if max_price is not None and found > max_price:
        raise ConfigurationError(
            f"{words}, above max_price {max_price:.2f}; allow fewer seconds (max_run_seconds), take another machine "
            "type, or raise --max-price"
        )
    return words
