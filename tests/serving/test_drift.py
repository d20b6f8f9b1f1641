from __future__ import annotations

import numpy as np

from finepoint.evaluation.drift import fit_drift
from finepoint.evaluation.unknown import fit_unknown
from finepoint.serving import drift
from finepoint.serving.drift import Watch
from finepoint.serving.metrics import exposition


def test_the_last_images_are_measured_and_older_ones_forgotten() -> None:
    generator = np.random.default_rng(0)
    train = generator.normal(1, 0.2, (500, 20)).astype(np.float32)
    detector = fit_unknown(train)
    watch = Watch(detector, fit_drift(detector, train, np.eye(2)[generator.integers(0, 2, 100)]))
    assert watch.drift() == {"images": 0}
    strange = np.tile([3.0, 0.1], (drift.WINDOW, 10)).astype(np.float32)
    watch.observe(strange, [0] * drift.WINDOW, [True] * drift.WINDOW)
    assert watch.drift()["feature_psi"] > 1
    assert watch.drift()["unknown_share"] == 1
    alike = generator.normal(1, 0.2, (drift.WINDOW, 20)).astype(np.float32)
    watch.observe(alike, [0, 1] * (drift.WINDOW // 2), [False] * drift.WINDOW)
    found = watch.drift()
    assert found["images"] == drift.WINDOW
    assert found["feature_psi"] < 0.1
    assert found["unknown_share"] == 0
    lines = exposition([watch.gauge()]).decode().splitlines()
    assert f'finepoint_drift{{measure="images"}} {drift.WINDOW}' in lines
