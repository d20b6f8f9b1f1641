"""How soon an endpoint is there: from the start to a good /ping, and to the next answer after kill -9 of each process.

A model's first start here compiles its graph; later ones find it compiled in the cache.

python benchmarks/restarts.py [--quick] [--json]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from finepoint.serving import registry
from finepoint.serving.client import Endpoint
from finepoint.serving.deployment import deploy, undeploy
from photographs import photographs
from reporting import Goal, parser, report
from serving_processes import free_port, package, running_server

_NAME = "measured-restarts"


def main() -> None:
    given = parser(__doc__.splitlines()[0]).parse_args()
    rounds = 3 if given.quick else 7
    with tempfile.TemporaryDirectory() as name, package() as model:
        folder = Path(name)
        (photograph,) = photographs(None, folder, 1)
        started(model, folder / "bytecode")  # an installed package has its modules compiled
        found = {
            "start to a good /ping": [started(model, folder / "again") for _ in range(rounds + 1)][1:],
            "a model's first start here": [started(model, folder / str(number)) for number in range(rounds)],
        }
        endpoint = deploy(model, name=_NAME)
        try:
            for who, find in _VICTIMS.items():
                found[f"kill -9 of {who}"] = [killed(endpoint, find, photograph.read_bytes()) for _ in range(rounds)]
        finally:
            undeploy(_NAME)
    rows = [
        {"what": what, "median s": f"{statistics.median(times):.2f}", "longest s": f"{max(times):.2f}"}
        for what, times in found.items()
    ]
    again, first, *others = [statistics.median(times) for times in found.values()]
    goals = [
        Goal("1.5 s over the start to a good /ping", 1.5 / again, 1),
        Goal("1.5 s over a model's first start", 1.5 / first, 1),
        Goal("3 s over the slowest return", 3 / max(others), 1),
    ]
    report("Starts and restarts", rows, goals, as_json=given.json)


def started(model: Path, cache: Path) -> float:
    """Return the seconds from the start of a server with this cache to its first good /ping."""
    port = free_port()
    command = [sys.executable, "-m", "finepoint.serving", "--model", str(model), "--name", "x", "--port", str(port)]
    start = time.perf_counter()
    with running_server(command, f"http://127.0.0.1:{port}", "/ping", {"FINEPOINT_CACHE": str(cache)}):
        return time.perf_counter() - start


def killed(endpoint: Endpoint, find: Callable[[psutil.Process], psutil.Process], image: bytes) -> float:
    """Kill a process and return the seconds until an image that is sent at once is answered with 200."""
    record = registry.find(_NAME)
    assert record is not None
    (worker,) = psutil.Process(record.pid).children()
    find(worker).kill()
    start = time.perf_counter()
    while True:
        try:
            answer = httpx.post(
                f"{endpoint.url}/invocations", content=image, headers={"Content-Type": "image/jpeg"}, timeout=60
            )
            if answer.status_code == 200:
                return time.perf_counter() - start
        except httpx.HTTPError:
            pass


# The supervisor is not among them: systemd or whoever started it keeps it up.
_VICTIMS: dict[str, Callable[[psutil.Process], psutil.Process]] = {
    "a decoder": lambda worker: worker.children(recursive=True)[-1],
    "the decoders' nursery": lambda worker: worker.children()[0],
    "the worker": lambda worker: worker,
}

if __name__ == "__main__":
    main()
