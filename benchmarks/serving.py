"""Our endpoint against the bare runtime, a plain FastAPI + PyTorch server, the official PyTorch inference toolkit's
Transformer, and LitServe, BentoML and MLServer with our model and runtime.

Closed loop with wrk (a client asks again when it is answered), every server in turn in each of several rounds, so that
the machine's moods meet all alike; a ratio is the median of the rounds' ratios. Open loop at a fixed rate (see
finepoint.serving.open_loop).

    python benchmarks/serving.py [--data FOLDER] [--rivals PYTHON ...] [--only PART ...] [--quick] [--json]

`--rivals` are Pythons of environments that have the rivals, together or each in one of its own; a rival that none has
is left out, and the table says so. Our packages are found from there.

    python -m venv rivals && rivals/bin/pip install litserve fastapi uvicorn python-multipart
    rivals/bin/pip install --no-deps sagemaker-pytorch-inference sagemaker-inference retrying six
    python -m venv bento && bento/bin/pip install bentoml
    python -m venv mlserver && mlserver/bin/pip install mlserver
    python benchmarks/serving.py --rivals rivals/bin/python bento/bin/python mlserver/bin/python

`--only` takes any of `bare`, the rivals' names, `mixed` (images from 150 x 200 to 3000 x 4000), `overload`, to measure
in shorter pieces.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from finepoint.models.classifier import load_classifier
from finepoint.models.runtimes import cores
from finepoint.serving.open_loop import offer, quantile
from photographs import photographs
from reporting import Goal, parser, report
from serving_processes import free_port, package, running_server, serve


@dataclass(frozen=True)
class Rival:
    """Another server, in `rival_NAME.py`.

    Args:
        module: that an environment must have to run it.
        health: path that answers 200 when it is up.
        form: it reads images in forms only.
        goal: how many times as many answers a second ours is to give.
    """

    module: str
    health: str = "/health"
    form: bool = False
    goal: float | None = None


_RIVALS = {
    "fastapi": Rival("fastapi", goal=4.0),
    "litserve": Rival("litserve", form=True, goal=1.2),
    "toolkit": Rival("sagemaker_pytorch_serving_container"),
    "bentoml": Rival("bentoml", "/readyz"),
    "mlserver": Rival("mlserver", "/v2/health/ready"),
}
_PARTS = ("bare", *_RIVALS, "mixed", "overload")
_MIXED_WIDTHS = (150, 400, 800, 1600, 3000)
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


@dataclass(frozen=True)
class Closed:
    """A closed loop's result: answers a second, milliseconds, answers that were not 200."""

    rate: float
    p50: float
    p99: float
    errors: int


@dataclass
class Contender:
    """What is measured, and what came of it.

    Args:
        one: measures one client at a time.
        many: measures twelve.
        process: the server's, or None where there is none.
        alone: a result of `one` for each round.
        together: a result of `many` for each round.
    """

    one: Callable[[], Closed]
    many: Callable[[], Closed]
    process: psutil.Process | None = None
    alone: list[Closed] = field(default_factory=list)
    together: list[Closed] = field(default_factory=list)

    def p50(self) -> float:
        """Milliseconds of one request alone, the median of the rounds."""
        return statistics.median(found.p50 for found in self.alone)

    def rate(self) -> float:
        """Answers a second, the median of the rounds."""
        return statistics.median(found.rate for found in self.together)

    def over(self, other: Contender) -> float:
        """Return how many times as many answers a second it gave as another, the median of the rounds."""
        return statistics.median(a.rate / b.rate for a, b in zip(self.together, other.together, strict=True))

    def row(self, name: str) -> dict[str, str]:
        """Return its line of the table."""
        made = {"server": name, "one, p50 ms": f"{self.p50():.2f}", "a second": f"{self.rate():.1f}"}
        if self.process is not None:
            p50, p99 = (statistics.median(getattr(found, key) for found in self.together) for key in ("p50", "p99"))
            errors = sum(found.errors for found in (*self.alone, *self.together))
            made |= {"twelve, p50 / p99 ms": f"{p50:.0f} / {p99:.0f}", "errors": str(errors)}
            made["memory MiB"] = f"{_memory(self.process) / 2**20:.0f}"
        return made


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="a folder of images; by default made-up photographs")
    arguments.add_argument("--rivals", type=Path, nargs="+", default=[], help="Pythons of environments with rivals")
    arguments.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="what to measure")
    given = arguments.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; `apt install wrk`")
    with tempfile.TemporaryDirectory() as name, package() as model, ExitStack() as stack:
        folder = Path(name)
        images = photographs(given.data, folder, 64)
        url, process = stack.enter_context(serve(model))
        found = {"ours": wrk(f"{url}/invocations", images, folder, process)}
        if "bare" in given.only:
            found["bare decode + runtime"] = bare(model, images)
        if "mixed" in given.only:
            (folder / "mixed").mkdir()
            found["ours, mixed sizes"] = wrk(f"{url}/invocations", mixed(images, folder), folder / "mixed", process)
        lines = [f"{len(images)} images; wrk, one connection and twelve"]
        for kind in (kind for kind in _RIVALS if kind in given.only):
            if python := _having(_RIVALS[kind].module, given.rivals):
                found[kind] = stack.enter_context(rival(python, kind, model, images, folder))
            else:
                lines.append(f"{kind} is left out: no environment given by --rivals has {_RIVALS[kind].module}")
        for _ in range(2 if given.quick else 5):
            for contender in found.values():
                contender.alone.append(contender.one())
                contender.together.append(contender.many())
        goals = _goals(found)
        rows = [contender.row(name) for name, contender in found.items()]
        if "overload" in given.only:
            capacity = found["ours"].rate()
            more, said = overloaded(f"{url}/invocations", images[0].read_bytes(), capacity, 6 if given.quick else 12)
            goals, lines = [*goals, *more], [*lines, *said]
        report("Serving EfficientNet-Lite0", rows, goals, as_json=given.json, notes="\n".join([*lines, *_table(goals)]))


def _goals(found: dict[str, Contender]) -> list[Goal]:
    ours, goals = found["ours"], []
    if alone := found.get("bare decode + runtime"):
        added = statistics.median(a.p50 - b.p50 for a, b in zip(ours.alone, alone.alone, strict=True))
        goals += [
            Goal("throughput over decode + bare runtime", ours.over(alone), 0.75),
            Goal(f"1.5 ms over what one request adds ({added:.2f} ms)", 1.5 / max(0.01, added), 1),
        ]
    for kind, other in _RIVALS.items():
        if kind in found:
            goals.append(Goal(f"throughput over {kind}", ours.over(found[kind]), other.goal or 1.0))
    return goals


def _table(goals: list[Goal]) -> list[str]:
    """Return the goals as rows of a table in Markdown."""
    rows = [(goal.name, f"{goal.value:.2f}", f"{goal.target:g}" + ("" if goal.met else ", missed")) for goal in goals]
    return ["", *(f"| {' | '.join(row)} |" for row in rows)]


def bare(model: Path, images: list[Path]) -> Contender:
    """Return what measures decoding and inference one after the other, and images a second where both overlap."""
    classifier, contents = load_classifier(model), [path.read_bytes() for path in images]
    crops = [[crop[None] for crop in classifier.preprocess(content)] for content in contents]
    batch = [np.concatenate([crop[0] for crop in crops[:8]])]

    def one() -> Closed:
        spent = _median([lambda content=content: classifier.predict(content) for content in contents])  # type: ignore[misc]
        return Closed(1 / spent, 1000 * spent, 0, 0)

    def many() -> Closed:
        alone = _median([lambda crop=crop: classifier.logits(crop) for crop in crops])  # type: ignore[misc]
        together = _median([lambda: classifier.logits(batch)] * 12) / 8
        with ThreadPoolExecutor(cores()) as pool:
            start = time.perf_counter()
            list(pool.map(classifier.preprocess, contents * 4))
            decode = (time.perf_counter() - start) / (4 * len(contents))
        return Closed(1 / (decode + min(alone, together)), 0, 0, 0)

    return Contender(one, many)


def mixed(images: list[Path], folder: Path) -> list[Path]:
    """Return the images as JPEGs of several widths, in pixels."""
    made = []
    for number, path in enumerate(images[:20]):
        width = _MIXED_WIDTHS[number % len(_MIXED_WIDTHS)]
        with Image.open(path) as image:
            made.append(folder / f"mixed-{number}.jpg")
            image.convert("RGB").resize((width, round(width * image.height / image.width))).save(made[-1], quality=88)
    return made


def closed(url: str, images: list[Path], folder: Path, clients: int, seconds: int, *, form: bool = False) -> Closed:
    """Measure with wrk; `form` sends each image as a form."""
    script, names = folder / "images.lua", folder / "images.txt"
    script.write_text(_SCRIPT)
    names.write_text("\n".join(map(str, images)) + "\n")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "20s", "--latency", "-s", str(script), url]
    environment = {**os.environ, "IMAGES": str(names), **({"FORM": "1"} if form else {})}
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    latency = [_milliseconds(re.search(rf"^ +{share}% +(\S+) *$", text, re.MULTILINE)) for share in (50, 99)]
    rate = re.search(r"Requests/sec:\s+(\S+)", text)
    assert rate is not None, text
    total, errors = re.search(r"(\d+) requests in", text), int(bad[1]) if bad else 0
    assert total is not None, text
    good = float(rate[1]) * (1 - errors / max(1, int(total[1])))  # a refusal is no answer
    # Where not one was answered in time, the rate is less than this, and a ratio to it a lower bound.
    return Closed(max(good, 1 / seconds), *latency, errors=errors)


def overloaded(url: str, body: bytes, capacity: float, seconds: int) -> tuple[list[Goal], list[str]]:
    """Offer 70 % of the capacity and twice of it."""
    calm, over = (offer(url, body, share * capacity, seconds) for share in (0.7, 2.0))
    before, after = quantile(calm.accepted, 0.99), quantile(over.accepted, 0.99)
    refused = quantile(over.refused, 0.5)
    goals = [
        Goal("3 x p99 at 70 % load over p99 of the accepted at 200 %", 3 * before / after, 1),
        Goal("no failures but 503", float(calm.failed + over.failed == 0), 1),
        Goal("accepted at 200 % over capacity", len(over.accepted) / seconds / capacity, 0.75),
    ]
    lines = [
        f"open loop at 70 %: p50 {1000 * quantile(calm.accepted, 0.5):.1f} ms, p99 {1000 * before:.1f} ms, "
        f"{len(calm.refused)} refused of {len(calm.accepted) + len(calm.refused)}",
        f"open loop at 200 %: accepted p50 {1000 * quantile(over.accepted, 0.5):.1f} ms, p99 {1000 * after:.1f} ms; "
        f"{len(over.refused)} refused of {len(over.accepted) + len(over.refused)}, in {1000 * refused:.1f} ms (p50)",
    ]
    return goals, lines


def wrk(url: str, images: list[Path], folder: Path, process: psutil.Process, *, form: bool = False) -> Contender:
    """Return what measures a server."""

    def ask(clients: int, seconds: int) -> Callable[[], Closed]:
        return lambda: closed(url, images, folder, clients, seconds, form=form)

    return Contender(ask(1, 1), ask(12, 3), process)


@contextmanager
def rival(python: Path, kind: str, model: Path, images: list[Path], folder: Path) -> Iterator[Contender]:
    """Run another server and yield what measures it."""
    port = free_port()
    command = [str(python), str(Path(__file__).with_name(f"rival_{kind}.py")), str(port)]
    source = Path(__file__).resolve().parents[1] / "src"
    environment = {"PACKAGE": str(model), "PYTHONPATH": f"{source}:{sysconfig.get_path('purelib')}"}
    other = _RIVALS[kind]
    with running_server(command, f"http://127.0.0.1:{port}", other.health, environment) as (url, process):
        yield wrk(f"{url}/invocations", images, folder, process, form=other.form)


def _having(module: str, pythons: list[Path]) -> Path | None:
    """Return the first Python whose environment has a module."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return next((python for python in pythons if subprocess.run([python, "-c", look]).returncode == 0), None)


def _memory(process: psutil.Process) -> int:
    return sum(each.memory_full_info().uss for each in (process, *process.children(recursive=True)))


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
