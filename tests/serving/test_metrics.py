from __future__ import annotations

import re

import numpy as np

from finepoint.serving.metrics import SIZES, Counter, Gauge, Histogram, exposition


def samples(*metrics: Counter | Gauge | Histogram) -> dict[str, str]:
    lines = exposition(metrics).decode().splitlines()
    assert lines[-1] == "# EOF"
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_a_counter_moves_beyond_a_million() -> None:
    counter = Counter("seen", "Seen.")
    counter.add(12_345_678)
    counter.add()
    assert samples(counter) == {"seen_total": "12345679"}


def test_a_sum_keeps_its_digits() -> None:
    histogram = Histogram("seconds", "Seconds.", (1.0,))
    histogram.observe(1_234_567.25)
    histogram.observe(0.5)
    assert samples(histogram)["seconds_sum"] == "1234567.75"


def test_a_histograms_bounds_are_written_as_floats_and_its_counts_add_up() -> None:
    histogram = Histogram("images", "Images.", SIZES)
    for size in (1, 2, 3, 100):
        histogram.observe(size)
    found = samples(histogram)
    bounds = re.findall(r'le="([^"]+)"', " ".join(found))
    assert bounds == ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "+Inf"]
    assert [found[f'images_bucket{{le="{bound}"}}'] for bound in bounds] == ["1", "2", "3", "3", "3", "3", "3", "4"]
    assert found["images_count"] == "4"


def test_a_gauge_says_what_is_no_number_as_openmetrics_does() -> None:
    values = {"a": float("nan"), "b": float("inf"), "c": np.float64(0.1), "d": 3}
    found = samples(Gauge("drift", "Drift.", lambda: values, "measure"))
    assert list(found.values()) == ["NaN", "+Inf", "0.1", "3"]
