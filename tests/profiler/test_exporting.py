"""Tables as CSV and Parquet, and figures as OpenMetrics text."""

from __future__ import annotations

import csv
from pathlib import Path

import httpx
import pytest
from tests.profiler.making import job, recording, samples, step

from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.profiler.exporting import export_tables
from finepoint.profiler.metrics import CONTENT_TYPE, openmetrics, served_metrics

ROWS = [step(data_wait=0.3, forward=0.1)] * 10


def test_csv_has_a_row_for_each_sample_and_nothing_where_there_is_no_value(tmp_path: Path) -> None:
    paths = export_tables(job(tmp_path / "job", recording(ROWS)), tmp_path / "out")
    assert [path.name for path in paths] == ["system.csv", "steps.csv"]
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    assert float(rows[1]["phase/data_wait"]) == 0.3
    assert rows[0]["phase/data_wait"] == ""


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = export_tables(job(tmp_path / "job", recording(ROWS)), tmp_path / "out", "parquet")
    table = parquet.read_table(paths[1])
    assert table.num_rows == 11
    assert table.column("phase/data_wait").null_count == 1


def test_what_cannot_be_written_or_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = job(tmp_path / "job", recording(ROWS))
    with pytest.raises(ConfigurationError, match="--to: the folder"):
        export_tables(made, tmp_path / "file")
    with pytest.raises(NotFoundError, match="no folder"):
        export_tables(tmp_path / "nix", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert export_tables(tmp_path / "empty", tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="csv or parquet"):
        export_tables(tmp_path, tmp_path, "xml")  # type: ignore[arg-type]


def test_openmetrics_text_ends_as_it_must_and_counts_phases() -> None:
    system = samples(60, **{"gpu/0/utilisation": 0.5, "gpu/0/memory_bytes": 1e9})
    lines = openmetrics(recording(ROWS, system, sampler={"gpus": [{"name": "x"}]})).splitlines()
    assert lines[-1] == "# EOF"
    assert "# TYPE finepoint_steps counter" in lines
    assert "finepoint_steps_total 10" in lines
    assert 'finepoint_gpu_utilisation_ratio{gpu="0"} 0.5' in lines
    assert 'finepoint_phase_seconds_total{phase="data_wait"} 3' in lines
    assert not any("power_watts" in line for line in lines)


def test_metrics_are_served_on_loopback(tmp_path: Path) -> None:
    with served_metrics(tmp_path, 0) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").text == "# EOF\n"  # nothing was sampled yet
        job(tmp_path, recording(ROWS))
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert answer.headers["content-type"] == CONTENT_TYPE
        assert "finepoint_job_memory_bytes 1000000000" in answer.text
        assert httpx.get(f"http://127.0.0.1:{port}/other").status_code == 404
        with pytest.raises(ConfigurationError, match="metrics-port"), served_metrics(tmp_path, port):
            pass
