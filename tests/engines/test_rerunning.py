"""Changes are tried on jobs of `finepoint train --entry-point` too, in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from finepoint.engines.local import run_job
from finepoint.engines.profiling import profiler_configuration
from finepoint.engines.rerunning import job_again
from finepoint.engines.spec import JobSpec, Resources
from finepoint.errors import InputError
from finepoint.files import write_json
from finepoint.profiler.trying import try_changes

pytestmark = pytest.mark.slow

_SCRIPT = """
import argparse, os, pathlib, torch
from torch import nn
parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int)
width = parser.parse_args().width + int(os.environ.get("API_TOKEN", "0"))
model = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = [(torch.rand(3, 16, 16), number % 2) for number in range(80)]
for images, labels in torch.utils.data.DataLoader(data, 4):
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
pathlib.Path(os.environ["SM_MODEL_DIR"], "model.txt").write_text("trained")
"""


def test_a_scripts_job_is_run_again_for_each_change_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_SCRIPT)
    spec = JobSpec(
        "job",
        entry_point="train.py",
        source_dir=str(tmp_path / "train.py"),
        hyperparameters={"width": 8},
        environment={"API_TOKEN": "12"},  # hidden in the record
        profiler=profiler_configuration(interval_ms=100),
    )
    job = tmp_path / "job"
    run_job(job, spec)
    before = {path: path.stat().st_mtime_ns for path in job.rglob("*")}
    rows = {row.name: row for row in try_changes(job, steps=12, again=job_again(job, lambda text: None))}
    assert {"as it is", "memory_format=channels_last", "precision=bf16"} <= set(rows)
    for name in ("memory_format=channels_last", "precision=bf16"):
        assert rows[name].measured, rows[name].output
        assert rows[name].output.startswith(("equal", "close", "differs"))
    assert {path: path.stat().st_mtime_ns for path in job.rglob("*")} == before


def test_jobs_that_are_no_script_or_on_several_hosts_are_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_SCRIPT)
    own = JobSpec("own", module="finepoint.training")
    write_json(tmp_path / "job.json", {"spec": own.to_json()})
    assert job_again(tmp_path, lambda text: None) is None
    spread = JobSpec("spread", entry_point="train.py", source_dir=str(tmp_path), resources=Resources(instance_count=2))
    write_json(tmp_path / "job.json", {"spec": spread.to_json()})
    with pytest.raises(InputError, match="ran on 2 hosts"):
        job_again(tmp_path, lambda text: None)
