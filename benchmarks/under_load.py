"""An endpoint under constant load: updated, each of its processes killed in turn, and given more than it can bear.

The load asks at random times at a fixed share of what the endpoint bears, whatever has become of earlier requests (see
finepoint.serving.open_loop). An update may fail no request and refuse none. A request that is under way in a process
that is killed is lost; how many were is shown, and how soon all processes run again and an image is answered.

    python benchmarks/under_load.py [--quick] [--json]
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finepoint.errors import EndpointError
from finepoint.files import read_json, write_json
from finepoint.models.package import DESCRIPTION, GRAPH
from finepoint.serving.canary import CanaryPlan
from finepoint.serving.client import Endpoint
from finepoint.serving.deployment import Access, deploy, undeploy
from finepoint.serving.open_loop import Measured, offer, quantile
from photographs import photographs
from reporting import Goal, parser, report
from restarts import HANDLER_VICTIMS, NAME, VICTIMS, Find, handler, killed
from serving import overloaded
from serving_processes import package

# Loading a model takes a part of the machine as well.
_SHARE = 0.3
_MORE_THAN_ANY = 1000.0  # requests a second


def main() -> None:
    given = parser(__doc__.splitlines()[0]).parse_args()
    seconds = 10 if given.quick else 20
    with tempfile.TemporaryDirectory() as name, package() as model, package(1) as other:
        folder = Path(name)
        image = photographs(None, folder, 1)[0].read_bytes()
        found, (goals, lines) = _builtin(model, other, folder, image, seconds)
        with _deployed(handler(folder / "handler")) as endpoint:
            for who, find in HANDLER_VICTIMS.items():
                kill = _killing(endpoint, find, image)
                found[f"kill -9 of {who}"] = _during(endpoint, image, 20.0, seconds, kill)
    updates = [measured for what, (measured, _) in found.items() if "update" in what]
    answered = sum(len(each.accepted) for each in updates) / sum(each.requests for each in updates)
    slowest = max(took for what, (_, took) in found.items() if what.startswith("kill"))
    goals = [
        Goal("share of the requests during updates answered with 200", answered, 1.0),
        Goal("3 s over the slowest return from kill -9", 3 / slowest, 1),
        *goals,
    ]
    rows = [_row(what, *measured) for what, measured in found.items()]
    report("An endpoint under load", rows, goals, as_json=given.json, notes="\n".join(lines))


Found = dict[str, tuple[Measured, float]]


def _builtin(
    model: Path, other: Path, folder: Path, image: bytes, seconds: int
) -> tuple[Found, tuple[list[Goal], list[str]]]:
    """Return what came of each thing done to an endpoint of the built-in handler, and of too much load."""
    broken = shutil.copytree(model, folder / "broken")
    write_json(broken / DESCRIPTION, {**read_json(broken / DESCRIPTION), "temperature": 2.0})  # another version
    (broken / GRAPH).write_bytes(b"damaged")
    with _deployed(model) as endpoint:
        url = f"{endpoint.url}/invocations"
        offer(url, image, _MORE_THAN_ANY, 2)  # until it is warm
        capacity = statistics.median(len(offer(url, image, _MORE_THAN_ANY, 2).accepted) / 2 for _ in range(3))

        def at(what: Callable[[], object]) -> tuple[Measured, float]:
            return _during(endpoint, image, _SHARE * capacity, seconds, what)

        found = {
            "nothing": at(lambda: None),
            "update at once": at(lambda: deploy(other, name=NAME)),
            "update after a canary of 50 %": at(lambda: deploy(model, name=NAME, canary=CanaryPlan(0.5, requests=20))),
            "update to a model that does not load": at(lambda: _refused(broken)),
        }
        for who, find in VICTIMS.items():
            found[f"kill -9 of {who}"] = at(_killing(endpoint, find, image))
        over = overloaded(url, image, capacity, seconds)
    over[1].insert(0, f"at {capacity:.1f} requests a second, which is what it bears, times {_SHARE:g}")
    return found, over


@contextlib.contextmanager
def _deployed(model: Path) -> Iterator[Endpoint]:
    endpoint = deploy(model, name=NAME, access=Access(allow_code=True))
    try:
        yield endpoint
    finally:
        undeploy(NAME)


def _refused(broken: Path) -> None:
    try:
        deploy(broken, name=NAME)
    except EndpointError:
        return
    raise AssertionError("a model that does not load took over")


def _killing(endpoint: Endpoint, find: Find, image: bytes) -> Callable[[], float]:
    return lambda: killed(endpoint, find, image)


def _during(
    endpoint: Endpoint, image: bytes, rate: float, seconds: int, what: Callable[[], object]
) -> tuple[Measured, float]:
    """Do something under load; return what came of the load, and the seconds that it took, or says that it took."""
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(offer, f"{endpoint.url}/invocations", image, rate, seconds)
        time.sleep(1)  # the load is there
        start = time.perf_counter()
        said = what()
        took = time.perf_counter() - start
        return load.result(), said if isinstance(said, float) else took


def _row(what: str, measured: Measured, took: float) -> dict[str, str]:
    p50, p99 = (f"{1000 * quantile(measured.accepted, share):.0f}" for share in (0.5, 0.99))
    return {
        "what": what,
        "requests": f"{measured.requests:,}",
        "refused": f"{len(measured.refused):,}",
        "failed": ", ".join(f"{count} {name}" for name, count in measured.failures.items()) or "0",
        "p50 / p99 ms": f"{p50} / {p99}",
        "s": f"{took:.2f}",
    }


if __name__ == "__main__":
    main()
