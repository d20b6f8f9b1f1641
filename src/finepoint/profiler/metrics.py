"""A job's latest figures as OpenMetrics text, for Prometheus to scrape."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from finepoint.errors import ConfigurationError, NotFoundError
from finepoint.profiler.phases import PHASES
from finepoint.profiler.recording import ProfilerRecording, open_recording, total

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# Column of the samples, name of the metric, and what it is.
_GAUGES = (
    ("cpu", "finepoint_cpu_utilisation_ratio", "Busy share of all cores."),
    ("cpu_iowait", "finepoint_cpu_iowait_ratio", "Share of time that cores waited for disks."),
    ("job_cpu", "finepoint_job_cpu_cores", "Cores that the job's processes use."),
    ("job_rss_bytes", "finepoint_job_memory_bytes", "Memory of the job's processes."),
    ("job_processes", "finepoint_job_processes", "Processes of the job, workers included."),
    ("memory_used_bytes", "finepoint_memory_used_bytes", "Memory that the machine uses."),
    ("swap_used_bytes", "finepoint_swap_used_bytes", "Swap that the machine uses."),
)
_GPU_GAUGES = (
    ("utilisation", "finepoint_gpu_utilisation_ratio", "Share of time that a GPU computed."),
    ("memory_bytes", "finepoint_gpu_memory_bytes", "Memory in use on a GPU."),
    ("power_watts", "finepoint_gpu_power_watts", "Power that a GPU draws."),
    ("temperature_celsius", "finepoint_gpu_temperature_celsius", "Temperature of a GPU."),
)


def openmetrics(recording: ProfilerRecording) -> str:
    """Return the latest sample and the sums over the steps so far, as the OpenMetrics 1.0 specification says."""
    lines: list[str] = []
    system = recording.system
    if len(system):
        for column, name, text in _GAUGES:
            _add(lines, name, "gauge", text, [("", system[column][-1])])
        for column, name, text in _GPU_GAUGES:
            values = [(f'{{gpu="{device}"}}', system[f"gpu/{device}/{column}"][-1]) for device in range(recording.gpus)]
            _add(lines, name, "gauge", text, values)
    loop = recording.loop
    if len(loop):
        _add(lines, "finepoint_steps", "counter", "Training steps.", [("", total(loop, "steps"))])
        _add(lines, "finepoint_samples", "counter", "Samples of all batches.", [("", total(loop, "samples"))])
        shares = recording.phases()
        seconds = [(f'{{phase="{name}"}}', shares[name] * recording.loop_seconds) for name in PHASES]
        _add(lines, "finepoint_phase_seconds", "counter", "Seconds of the training loop by phase.", seconds)
    return "\n".join([*lines, "# EOF"]) + "\n"


@contextmanager
def served_metrics(job: Path, port: int) -> Iterator[int]:
    """Answer `GET /metrics` on loopback while the block runs; yield the port.

    Args:
        job: a job's folder.
        port: 0 takes a free one.

    Raises:
        ConfigurationError: the port is not to be had.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            try:
                body = openmetrics(open_recording(job)).encode()
            except NotFoundError:
                body = b"# EOF\n"
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Scrapes are not worth a line each."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"metrics-port {port} is not to be had: {error}") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _add(lines: list[str], name: str, kind: str, text: str, values: list[tuple[str, float]]) -> None:
    known = [(labels, value) for labels, value in values if not np.isnan(value)]
    if known:
        suffix = "_total" if kind == "counter" else ""
        lines += [f"# TYPE {name} {kind}", f"# HELP {name} {text}"]
        lines += [f"{name}{suffix}{labels} {float(value):.10g}" for labels, value in known]
