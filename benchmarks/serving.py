"""Our endpoint against the bare runtime, a plain FastAPI + PyTorch server, and LitServe with our model and runtime.

Closed loop with wrk (a client asks again when it is answered), open loop at a fixed rate (see open_loop.py).

    python benchmarks/serving.py [--data FOLDER] [--rivals PYTHON] [--quick] [--json]

`--rivals` is the Python of an environment with litserve and fastapi; our packages are found from there.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from finepoint.models.classifier import load_classifier
from finepoint.models.runtimes import cores
from finepoint.serving.open_loop import offer, quantile
from photographs import photographs
from reporting import Goal, parser, report
from serving_processes import free_port, package, running_server, serve

_SCRIPT = """
local names = {}
for name in io.lines(os.getenv("IMAGES")) do names[#names + 1] = name end
local bodies, turn = {}, 0
for i, name in ipairs(names) do local f = io.open(name, "rb"); bodies[i] = f:read("*a"); f:close() end
local kind = "image/jpeg"
if os.getenv("FORM") then
  kind = "multipart/form-data; boundary=bbbb"
  local head = '--bbbb\\r\\nContent-Disposition: form-data; name="file"; filename="a.jpg"\\r\\n\\r\\n'
  for i, body in ipairs(bodies) do bodies[i] = head .. body .. "\\r\\n--bbbb--\\r\\n" end
end
request = function()
  turn = turn % #bodies + 1
  return wrk.format("POST", nil, {["Content-Type"] = kind}, bodies[turn])
end
"""


@dataclass
class Closed:
    """A closed loop's result: answers a second, milliseconds, answers that were not 200."""

    rate: float
    p50: float
    p99: float
    errors: int


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="a folder of images; by default made-up photographs")
    arguments.add_argument("--rivals", type=Path, help="Python of an environment with litserve and fastapi")
    given = arguments.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; `apt install wrk`")
    seconds = 3 if given.quick else 6
    with tempfile.TemporaryDirectory() as name, package() as model, ExitStack() as stack:
        folder = Path(name)
        images = photographs(given.data, folder, 64)
        bare_single, bare_rate = bare(model, images)
        rows = [
            {"server": "bare decode + runtime", "one, p50 ms": f"{bare_single:.2f}", "a second": f"{bare_rate:.1f}"}
        ]
        url, process = stack.enter_context(serve(model))
        ours = [closed(f"{url}/invocations", images, folder, clients, seconds) for clients in (1, 12)]
        rows.append(_row("ours", *ours, process))
        overload, overload_rows = overloaded(f"{url}/invocations", images[0].read_bytes(), ours[1].rate, seconds)
        stack.close()
        goals = [
            Goal("throughput over decode + bare runtime", ours[1].rate / bare_rate, 0.75),
            Goal("1.5 ms over what one request adds", 1.5 / max(0.01, ours[0].p50 - bare_single), 1),
        ]
        for kind, target in (("fastapi", 4.0), ("litserve", 1.2)) if given.rivals else ():
            found = rival(given.rivals, kind, model, images, folder, seconds)
            rows.append(found[0])
            goals.append(Goal(f"throughput over {kind}", ours[1].rate / found[1], target))
        notes = "\n".join([f"{len(images)} images; wrk, one connection and twelve", *overload_rows])
        report("Serving EfficientNet-Lite0", rows, [*goals, *overload], as_json=given.json, notes=notes)


def bare(model: Path, images: list[Path]) -> tuple[float, float]:
    """Return the milliseconds of one image alone, and images a second where decoding and inference overlap."""
    classifier, contents = load_classifier(model), [path.read_bytes() for path in images]
    crops = [[crop[None] for crop in classifier.preprocess(content)] for content in contents]
    batch = [np.concatenate([crop[0] for crop in crops[:8]])]
    decode = _median([lambda content=content: classifier.preprocess(content) for content in contents])  # type: ignore[misc]
    alone = _median([lambda crop=crop: classifier.logits(crop) for crop in crops])  # type: ignore[misc]
    together = _median([lambda: classifier.logits(batch)] * 12) / 8
    with ThreadPoolExecutor(cores()) as pool:
        start = time.perf_counter()
        list(pool.map(classifier.preprocess, contents * 4))
        decode_all = (time.perf_counter() - start) / (4 * len(contents))
    return 1000 * (decode + alone), 1 / (decode_all + min(alone, together))


def closed(url: str, images: list[Path], folder: Path, clients: int, seconds: int, *, form: bool = False) -> Closed:
    """Measure with wrk; `form` sends each image as a form."""
    script, names = folder / "images.lua", folder / "images.txt"
    script.write_text(_SCRIPT)
    names.write_text("\n".join(map(str, images)) + "\n")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "20s", "--latency", "-s", str(script), url]
    environment = {**os.environ, "IMAGES": str(names), **({"FORM": "1"} if form else {})}
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    latency = [_milliseconds(re.search(rf"{share}%\s+(\S+)", text)) for share in (50, 99)]
    rate = re.search(r"Requests/sec:\s+(\S+)", text)
    assert rate is not None, text
    return Closed(float(rate[1]), *latency, errors=int(bad[1]) if bad else 0)


def overloaded(url: str, body: bytes, capacity: float, seconds: int) -> tuple[list[Goal], list[str]]:
    """Offer 70 % of the capacity and twice of it."""
    calm, over = (offer(url, body, share * capacity, 2 * seconds) for share in (0.7, 2.0))
    before, after = quantile(calm.accepted, 0.99), quantile(over.accepted, 0.99)
    refused = quantile(over.refused, 0.5)
    goals = [
        Goal("3 x p99 at 70 % load over p99 of the accepted at 200 %", 3 * before / after, 1),
        Goal("no failures but 503", float(calm.failed + over.failed == 0), 1),
        Goal("accepted at 200 % over capacity", len(over.accepted) / (2 * seconds) / capacity, 0.75),
    ]
    lines = [
        f"open loop at 70 %: p50 {1000 * quantile(calm.accepted, 0.5):.1f} ms, p99 {1000 * before:.1f} ms, "
        f"{len(calm.refused)} refused of {len(calm.accepted) + len(calm.refused)}",
        f"open loop at 200 %: accepted p50 {1000 * quantile(over.accepted, 0.5):.1f} ms, p99 {1000 * after:.1f} ms; "
        f"{len(over.refused)} refused of {len(over.accepted) + len(over.refused)}, in {1000 * refused:.1f} ms (p50)",
    ]
    return goals, lines


def rival(
    python: Path, kind: str, model: Path, images: list[Path], folder: Path, seconds: int
) -> tuple[dict[str, str], float]:
    """Measure another server; return its row and its answers a second."""
    port = free_port()
    command = [str(python), str(Path(__file__).with_name(f"rival_{kind}.py")), str(port)]
    source = Path(__file__).resolve().parents[1] / "src"
    environment = {"PACKAGE": str(model), "PYTHONPATH": f"{source}:{sysconfig.get_path('purelib')}"}
    with running_server(command, f"http://127.0.0.1:{port}", "/health", environment) as (url, process):
        form = kind == "litserve"
        found = [closed(f"{url}/invocations", images, folder, clients, seconds, form=form) for clients in (1, 12)]
        return _row(kind, *found, process), found[1].rate


def _row(name: str, one: Closed, many: Closed, process: psutil.Process) -> dict[str, str]:
    memory = sum(each.memory_full_info().uss for each in (process, *process.children(recursive=True)))
    return {
        "server": name,
        "one, p50 ms": f"{one.p50:.2f}",
        "a second": f"{many.rate:.1f}",
        "twelve, p50 / p99 ms": f"{many.p50:.0f} / {many.p99:.0f}",
        "errors": str(one.errors + many.errors),
        "memory MiB": f"{memory / 2**20:.0f}",
    }


def _median(works: list[Callable[[], object]]) -> float:
    times = []
    for work in [*works[:2], *works]:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _milliseconds(found: re.Match[str] | None) -> float:
    assert found is not None
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", found[1]).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


if __name__ == "__main__":
    main()
