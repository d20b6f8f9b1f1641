"""How soon an endpoint is there: from the start to a good /ping, and back after kill -9 of each process in turn.

A model's first start here compiles its graph; later ones find it compiled in the cache. The handler is a package's own
one, in its process; the supervisor is back when the registry names another one and an image is answered.

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
from finepoint.serving.deployment import Access, deploy, undeploy
from photographs import photographs
from reporting import Goal, parser, report
from serving_processes import free_port, package, running_server

NAME = "measured-restarts"
_SETTLED_SECONDS = 6.0


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
        for who, times in kills(model, folder / "handler", photograph.read_bytes(), rounds).items():
            found[f"kill -9 of {who}"] = times
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


def kills(model: Path, folder: Path, image: bytes, rounds: int) -> dict[str, list[float]]:
    """Deploy a package and one with a handler of its own, made in a folder; return the seconds of each return."""
    found: dict[str, list[float]] = {}
    for deployed, victims in ((model, VICTIMS), (handler(folder), HANDLER_VICTIMS)):
        endpoint = deploy(deployed, name=NAME, access=Access(allow_code=True))
        try:
            for who, find in victims.items():
                found[who] = [killed(endpoint, find, image) for _ in range(rounds)]
        finally:
            undeploy(NAME)
    return found


def handler(folder: Path) -> Path:
    """Make a package with a handler of its own in a folder, and return the folder."""
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text(_HANDLER)
    return folder


def killed(endpoint: Endpoint, find: Find, image: bytes) -> float:
    """Kill a process and return the seconds until all run again and an image is answered with 200."""
    family = processes()
    victim = find(family)
    # Who has just been started and dies again waits before the next start; that is not what is asked here.
    time.sleep(max(0.0, victim.create_time() + _SETTLED_SECONDS - time.time()))
    victim.kill()
    start = time.perf_counter()
    while True:
        try:
            answer = httpx.post(
                f"{endpoint.url}/invocations", content=image, headers={"Content-Type": "image/jpeg"}, timeout=60
            )
            running = processes()
            if answer.status_code == 200 and victim not in running and len(running) >= len(family):
                return time.perf_counter() - start
        except (httpx.HTTPError, psutil.Error):
            pass


def processes() -> list[psutil.Process]:
    """Return the endpoint's: the supervisor, its worker, and what that has."""
    record = registry.find(NAME)
    assert record is not None
    supervisor = psutil.Process(record.pid)
    return [supervisor, *supervisor.children(recursive=True)]


_HANDLER = """
def model_fn(folder):
    return "the model"

def transform_fn(model, data, content_type, accept):
    return model, "text/plain"
"""
Find = Callable[[list[psutil.Process]], psutil.Process]
VICTIMS: dict[str, Find] = {
    "a decoder": lambda family: family[-1],
    "the decoders' nursery": lambda family: family[2],
    "the worker": lambda family: family[1],
    "the supervisor": lambda family: family[0],
}
HANDLER_VICTIMS: dict[str, Find] = {"a package's own handler": lambda family: family[2]}

if __name__ == "__main__":
    main()
